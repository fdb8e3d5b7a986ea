/* Sets the wall clock of one process: seconds to add are read from the file that WALL_CLOCK_OFFSET names, at each call.
   Other clocks are the kernel's. Preloaded; its own calls go to the kernel directly. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("WALL_CLOCK_OFFSET");
    if (result != 0 || clock != CLOCK_REALTIME || path == NULL)
        return result;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return result;
    char text[32] = {0};
    if (syscall(SYS_read, file, text, sizeof text - 1) > 0)
        time->tv_sec += atol(text);
    syscall(SYS_close, file);
    return result;
}
