#include "contrastive_entry.h"

MMK_NAMESPACE_BEGIN
template void serve_statistics<float>(ContrastiveRequest& request);
template void serve_gradients<float>(ContrastiveRequest& request);
MMK_NAMESPACE_END
