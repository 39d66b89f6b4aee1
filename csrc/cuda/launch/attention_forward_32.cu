#include "attention_entry.h"

MMK_NAMESPACE_BEGIN
void serve_forward_32(ForwardRequest& request) { serve_dim<32>(request); }
MMK_NAMESPACE_END
