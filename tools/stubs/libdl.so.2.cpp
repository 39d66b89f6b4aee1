#include "glibc.h"

MMK_GLIBC(dlclose, "2.2.5");
MMK_GLIBC(dlerror, "2.2.5");
MMK_GLIBC(dlmopen, "2.3.4");
MMK_GLIBC(dlopen, "2.2.5");
MMK_GLIBC(dlsym, "2.2.5");
MMK_GLIBC(dlvsym, "2.2.5");
