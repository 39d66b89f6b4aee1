#include "attention_backward_entry.h"

MMK_NAMESPACE_BEGIN
void serve_backward_256(BackwardRequest& request) { serve_backward_dim<256>(request); }
MMK_NAMESPACE_END
