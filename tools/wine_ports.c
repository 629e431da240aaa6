/* For Wine, by LD_PRELOAD: two sockets that have SO_REUSEADDR may be bound to one port, also while one of them listens.
 * So Windows has it ("Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE"); Wine hands the option to Linux, whose SO_REUSEADDR
 * is refused while a socket listens there, and whose SO_REUSEPORT is not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>

int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
    static int (*next)(int, int, int, const void *, socklen_t);
    if (!next)
        next = (int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt");
    if (level == SOL_SOCKET && option == SO_REUSEADDR)
        next(fd, level, SO_REUSEPORT, value, size);
    return next(fd, level, option, value, size);
}
