#include "contrastive_entry.h"

MMK_NAMESPACE_BEGIN
template void serve_statistics<Half>(ContrastiveRequest& request);
template void serve_gradients<Half>(ContrastiveRequest& request);
MMK_NAMESPACE_END
