#include "attention_entry.h"

MMK_NAMESPACE_BEGIN
void serve_forward_256(ForwardRequest& request) { serve_dim<256>(request); }
MMK_NAMESPACE_END
