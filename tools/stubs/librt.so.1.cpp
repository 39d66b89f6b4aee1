#include "glibc.h"

MMK_GLIBC(shm_open, "2.2.5");
MMK_GLIBC(shm_unlink, "2.2.5");
