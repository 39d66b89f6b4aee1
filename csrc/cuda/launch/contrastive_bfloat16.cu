#include "contrastive_entry.h"

MMK_NAMESPACE_BEGIN
template void serve_statistics<BFloat16>(ContrastiveRequest& request);
template void serve_gradients<BFloat16>(ContrastiveRequest& request);
MMK_NAMESPACE_END
