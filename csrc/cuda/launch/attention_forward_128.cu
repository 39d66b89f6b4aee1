#include "attention_entry.h"

MMK_NAMESPACE_BEGIN
void serve_forward_128(ForwardRequest& request) { serve_dim<128>(request); }
MMK_NAMESPACE_END
