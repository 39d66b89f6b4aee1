#include "attention_entry.h"

MMK_NAMESPACE_BEGIN
void serve_forward_64(ForwardRequest& request) { serve_dim<64>(request); }
MMK_NAMESPACE_END
