// Lets a library made by a new compiler load on systems as old as glibc 2.28 (the wheel's tag, manylinux_2_28).
//
// The headers of newer GCCs name a few symbols that older libstdc++ and glibc do not have. Here they are defined for
// this library alone: its version script keeps everything in it local. tests/build/test_library.py knows the limits.

#include <new>
#include <sstream>

#ifdef __GLIBCXX__

namespace std {

// libstdc++ 11: containers report an impossible size
#if __GNUC__ >= 11 && !defined(__clang__)
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
#endif

// libstdc++ 9 has no default constructors to link with: the headers say that they are elsewhere
template basic_stringstream<char>::basic_stringstream();
template basic_ostringstream<char>::basic_ostringstream();

}  // namespace std

// glibc 2.32: what a shared_ptr asks before it counts without atomics. A process with torch in it has many threads.
extern "C" {
char __libc_single_threaded = 0;
}

#endif
