/* Records what a process does to files and sockets, and makes calls fail.

   For LD_PRELOAD. Every call that changes a file under RECORD_ROOT, and every one that
   sends to a socket, is appended to the file RECORD_LOG twice, before and after. The
   order of the log is one in which it happened: what a call did, it did between its two
   records. RECORD_FAULTS is a file of `struct fault`, mapped into every process: the
   checks write into it while the server runs. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN, WRITE, TRUNCATE, SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR, SEND, STRANGE, READ };

struct record { /* as in recording.py */
    uint32_t size, pid;
    uint64_t call;
    uint32_t kind, after;
    int64_t result;
    uint64_t file; /* its inode; of a socket the port of the peer */
    int64_t offset;
    uint32_t existed, path_size, other_size, data_size;
};

struct fault { /* as in faults.py */
    uint32_t kinds; /* a bit for each kind of call; 0: unused */
    int32_t skip, count; /* calls to let pass, then calls to spoil */
    int32_t error; /* the errno, or 0 */
    uint32_t milliseconds; /* to wait before */
    uint32_t kill; /* whether the process gets SIGKILL before the call */
    uint32_t spoiled; /* calls that were */
    uint32_t part; /* of a write, so many bytes are written nevertheless */
    char suffix[32]; /* of the path */
};
#define FAULTS 16

static char root[PATH_MAX];
static size_t root_size;
static int log_file = -1;
static struct fault *faults;
static uint64_t calls;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void)
{
    const char *where = getenv("RECORD_ROOT"), *log = getenv("RECORD_LOG");
    const char *control = getenv("RECORD_FAULTS");
    if (!where) return;
    snprintf(root, sizeof root, "%s", where);
    root_size = strlen(root);
    if (log) {
        int file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        log_file = syscall(SYS_fcntl, file, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, file);
        if (log_file < 0) abort();
    }
    if (control) {
        int file = syscall(SYS_openat, AT_FDCWD, control, O_RDWR | O_CLOEXEC, 0);
        faults = (void *)syscall(SYS_mmap, NULL, FAULTS * sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        syscall(SYS_close, file);
        if ((intptr_t)faults < 0) abort();
    }
}

static void absolute(char *into, int folder, const char *path)
{
    char name[64];
    ssize_t size = 0;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) strcpy(name, "/proc/self/cwd");
        else snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
        size = syscall(SYS_readlinkat, AT_FDCWD, name, into, PATH_MAX / 2);
        if (size < 0) size = 0;
        into[size++] = '/';
    }
    snprintf(into + size, PATH_MAX / 2, "%s", path);
    for (char *dot; (dot = strstr(into, "/./"));) memmove(dot, dot + 2, strlen(dot + 2) + 1);
}

static int inside(const char *path)
{
    return root_size && !strncmp(path, root, root_size) && (path[root_size] == '/' || !path[root_size]);
}

/* Returns 1 for a file or folder of ours, 2 for a socket, else 0. */
static int what_is(int file, char *path, uint64_t *number)
{
    struct stat status;
    char name[64];
    *path = 0;
    if (!root_size || file == log_file || syscall(SYS_fstat, file, &status)) return 0;
    *number = status.st_ino;
    if (S_ISSOCK(status.st_mode)) {
        struct sockaddr_in6 peer = {0};
        socklen_t size = sizeof peer;
        if (syscall(SYS_getpeername, file, &peer, &size)) return 0;
        if (peer.sin6_family != AF_INET && peer.sin6_family != AF_INET6) return 0;
        *number = ntohs(peer.sin6_port);
        return 2;
    }
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, name, path, PATH_MAX - 1);
    path[size > 0 ? size : 0] = 0;
    return inside(path);
}

static uint64_t append(struct record record, const char *path, const char *other, const struct iovec *data, int count)
{
    struct iovec parts[64];
    if (log_file < 0) return 0;
    if (count > 60) abort();
    record.pid = syscall(SYS_getpid);
    if (!record.after) record.call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    record.path_size = strlen(path);
    record.other_size = strlen(other);
    parts[0] = (struct iovec){&record, sizeof record};
    parts[1] = (struct iovec){(void *)path, record.path_size};
    parts[2] = (struct iovec){(void *)other, record.other_size};
    for (int i = 0; i < count; i++) record.data_size += data[i].iov_len, parts[3 + i] = data[i];
    record.size = sizeof record + record.path_size + record.other_size + record.data_size;
    if (syscall(SYS_writev, log_file, parts, 3 + count) != record.size) abort();
    return record.call;
}

/* Returns the errno with which the call is to fail, or 0. */
static int spoil(enum kind kind, const char *path, size_t *part)
{
    size_t size = strlen(path);
    for (struct fault *fault = faults; fault && fault < faults + FAULTS; fault++) {
        size_t end = strnlen(fault->suffix, sizeof fault->suffix);
        if (!(__atomic_load_n(&fault->kinds, __ATOMIC_SEQ_CST) >> kind & 1)) continue;
        if (end > size || memcmp(path + size - end, fault->suffix, end)) continue;
        if (__atomic_fetch_sub(&fault->skip, 1, __ATOMIC_SEQ_CST) > 0) continue;
        if (fault->count >= 0 && __atomic_fetch_sub(&fault->count, 1, __ATOMIC_SEQ_CST) <= 0) {
            fault->kinds = 0;
            continue;
        }
        __atomic_add_fetch(&fault->spoiled, 1, __ATOMIC_SEQ_CST);
        if (fault->kill) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        if (fault->milliseconds) {
            struct timespec time = {fault->milliseconds / 1000, fault->milliseconds % 1000 * 1000000L};
            syscall(SYS_nanosleep, &time, NULL);
        }
        *part = fault->part;
        return fault->error;
    }
    return 0;
}

/* Makes a call between its two records, unless it is to fail. */
#define MAKE(type, kind_, path_, other_, data_, count_, file_, offset_, existed_, call_) \
    size_t part_ = 0; \
    struct record record_ = {.kind = kind_, .file = file_, .offset = offset_, .existed = existed_}; \
    int before_ = errno, error_ = spoil(kind_, path_, &part_); \
    record_.call = append(record_, path_, other_, data_, count_); \
    errno = before_; \
    type result_ = -1; \
    if (error_) errno = error_; \
    else result_ = (call_); \
    before_ = errno; \
    record_.after = 1; \
    record_.result = result_; \
    append(record_, "", "", NULL, 0); \
    errno = before_; \
    return result_

static int is_there(const char *path)
{
    struct stat status;
    return !syscall(SYS_newfstatat, AT_FDCWD, path, &status, 0);
}

static int open_(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    absolute(path, folder, name);
    if (!inside(path) || !(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)))
        return syscall(SYS_openat, folder, name, flags, mode);
    int existed = is_there(path), before = errno;
    size_t part = 0;
    struct record record = {.kind = OPEN, .offset = flags & O_TRUNC ? 1 : 0, .existed = existed};
    int error = spoil(OPEN, path, &part);
    record.call = append(record, path, "", NULL, 0);
    errno = before;
    int result = -1;
    if (error) errno = error;
    else result = syscall(SYS_openat, folder, name, flags, mode);
    before = errno;
    struct stat status = {0};
    if (result >= 0) syscall(SYS_fstat, result, &status);
    record.after = 1;
    record.result = result;
    record.file = status.st_ino;
    append(record, "", "", NULL, 0);
    errno = before;
    return result;
}

#define OPENED \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
int open(const char *path, int flags, ...) { OPENED return open_(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPENED return open_(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { OPENED return open_(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { OPENED return open_(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static ssize_t write_(int file, const struct iovec *data, int count, int64_t offset)
{
    char path[PATH_MAX];
    uint64_t number = 0;
    int what = what_is(file, path, &number);
    struct iovec less = data[0];
    if (!what)
        return offset < 0 ? syscall(SYS_writev, file, data, count)
                          : syscall(SYS_pwritev, file, data, count, offset, 0);
    if (what == 1 && offset < 0) {
        int flags = syscall(SYS_fcntl, file, F_GETFL);
        offset = syscall(SYS_lseek, file, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
        MAKE(ssize_t, WRITE, path, "", data, count, number, offset, 0, syscall(SYS_writev, file, data, count));
    }
    if (what == 1) {
        size_t part = 0;
        int before = errno, error = spoil(WRITE, path, &part);
        struct record record = {.kind = WRITE, .file = number, .offset = offset};
        if (error && part && part < less.iov_len) { /* some of it, then nothing more */
            less.iov_len = part, data = &less, count = 1, error = 0;
        }
        record.call = append(record, path, "", data, count);
        errno = before;
        ssize_t result = -1;
        if (error) errno = error;
        else result = syscall(SYS_pwritev, file, data, count, offset, 0);
        before = errno;
        record.after = 1, record.result = result;
        append(record, "", "", NULL, 0);
        errno = before;
        return result;
    }
    MAKE(ssize_t, SEND, path, "", data, count, number, 0, 0, syscall(SYS_writev, file, data, count));
}

static ssize_t read_(int file, void *data, size_t size, off64_t offset)
{
    char path[PATH_MAX];
    uint64_t number;
    size_t part;
    int error = faults && what_is(file, path, &number) == 1 ? spoil(READ, path, &part) : 0;
    if (error) return errno = error, -1;
    return syscall(SYS_pread64, file, data, size, offset);
}
ssize_t pread(int file, void *data, size_t size, off_t offset) { return read_(file, data, size, offset); }
ssize_t pread64(int file, void *data, size_t size, off64_t offset) { return read_(file, data, size, offset); }

#define ONE (&(struct iovec){(void *)data, size})
ssize_t write(int file, const void *data, size_t size) { return write_(file, ONE, 1, -1); }
ssize_t writev(int file, const struct iovec *data, int count) { return write_(file, data, count, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return write_(file, ONE, 1, offset); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) { return write_(file, ONE, 1, offset); }
ssize_t pwritev(int file, const struct iovec *data, int count, off_t offset) { return write_(file, data, count, offset); }
ssize_t pwritev64(int file, const struct iovec *data, int count, off64_t offset) { return write_(file, data, count, offset); }

ssize_t sendmsg(int file, const struct msghdr *message, int flags)
{
    char path[PATH_MAX];
    uint64_t number = 0;
    if (what_is(file, path, &number) != 2) return syscall(SYS_sendmsg, file, message, flags);
    MAKE(ssize_t, SEND, "", "", message->msg_iov, message->msg_iovlen, number, 0, 0, syscall(SYS_sendmsg, file, message, flags));
}

ssize_t sendto(int file, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    char path[PATH_MAX];
    uint64_t number = 0;
    if (what_is(file, path, &number) != 2) return syscall(SYS_sendto, file, data, size, flags, to, length);
    MAKE(ssize_t, SEND, "", "", ONE, 1, number, 0, 0, syscall(SYS_sendto, file, data, size, flags, to, length));
}

ssize_t send(int file, const void *data, size_t size, int flags) { return sendto(file, data, size, flags, NULL, 0); }

static int truncate_(int file, off64_t size)
{
    char path[PATH_MAX];
    uint64_t number = 0;
    if (what_is(file, path, &number) != 1) return syscall(SYS_ftruncate, file, size);
    MAKE(int, TRUNCATE, path, "", NULL, 0, number, size, 0, syscall(SYS_ftruncate, file, size));
}
int ftruncate(int file, off_t size) { return truncate_(file, size); }
int ftruncate64(int file, off64_t size) { return truncate_(file, size); }

static int sync_(int file, long number_of_call)
{
    char path[PATH_MAX];
    uint64_t number = 0;
    if (what_is(file, path, &number) != 1) return syscall(number_of_call, file);
    MAKE(int, SYNC, path, "", NULL, 0, number, 0, 0, syscall(number_of_call, file));
}
int fsync(int file) { return sync_(file, SYS_fsync); }
int fdatasync(int file) { return sync_(file, SYS_fdatasync); }

static int two_(enum kind kind, int from, const char *old, int to, const char *new, int flags)
{
    char path[PATH_MAX], other[PATH_MAX];
    long number = kind == RENAME ? SYS_renameat2 : SYS_linkat;
    absolute(path, from, old);
    absolute(other, to, new);
    if (!inside(path) && !inside(other)) return syscall(number, from, old, to, new, flags);
    MAKE(int, kind, path, other, NULL, 0, 0, 0, 0, syscall(number, from, old, to, new, flags));
}
int rename(const char *old, const char *new) { return two_(RENAME, AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return two_(RENAME, from, old, to, new, 0); }
int link(const char *old, const char *new) { return two_(LINK, AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return two_(LINK, from, old, to, new, flags); }

#define ON_NAME(kind_, folder_, name_, call_) \
    char path[PATH_MAX]; \
    absolute(path, folder_, name_); \
    if (!inside(path)) return call_; \
    MAKE(int, kind_, path, "", NULL, 0, 0, 0, 0, call_)
int unlink(const char *name) { ON_NAME(UNLINK, AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, 0)); }
int rmdir(const char *name) { ON_NAME(RMDIR, AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, AT_REMOVEDIR)); }
int mkdir(const char *name, mode_t mode) { ON_NAME(MKDIR, AT_FDCWD, name, syscall(SYS_mkdirat, AT_FDCWD, name, mode)); }
int unlinkat(int folder, const char *name, int flags)
{
    ON_NAME(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, name, syscall(SYS_unlinkat, folder, name, flags));
}

/* What could change a file of ours and is not modelled ends the recording. */
static void strange(int file, const char *name)
{
    char path[PATH_MAX];
    uint64_t number;
    size_t size;
    if (what_is(file, path, &number) != 1) return;
    size = strlen(path);
    if (!strcmp(name, "mmap") && size > 4 && !strcmp(path + size - 4, "-shm")) return;
    append((struct record){.kind = STRANGE}, path, name, NULL, 0);
}

void *mmap(void *at, size_t size, int access, int flags, int file, off_t offset)
{
    if (file >= 0 && access & PROT_WRITE && flags & MAP_SHARED) strange(file, "mmap");
    return (void *)syscall(SYS_mmap, at, size, access, flags, file, offset);
}
void *mmap64(void *at, size_t size, int access, int flags, int file, off64_t offset) { return mmap(at, size, access, flags, file, offset); }
int fallocate(int file, int mode, off_t from, off_t size) { REAL(fallocate); strange(file, "fallocate"); return real(file, mode, from, size); }
int posix_fallocate(int file, off_t from, off_t size) { REAL(posix_fallocate); strange(file, "posix_fallocate"); return real(file, from, size); }
int truncate(const char *name, off_t size)
{
    char path[PATH_MAX];
    absolute(path, AT_FDCWD, name);
    if (inside(path)) append((struct record){.kind = STRANGE}, path, "truncate", NULL, 0);
    return syscall(SYS_truncate, name, size);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) { REAL(sendfile); strange(to, "sendfile"); return real(to, from, offset, size); }
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) { REAL(sendfile64); strange(to, "sendfile"); return real(to, from, offset, size); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    strange(to, "copy_file_range");
    return real(from, at, to, there, size, flags);
}
int sync_file_range(int file, off64_t from, off64_t size, unsigned flags) { REAL(sync_file_range); strange(file, "sync_file_range"); return real(file, from, size, flags); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    if (flags) append((struct record){.kind = STRANGE}, old, "renameat2", NULL, 0);
    return two_(RENAME, from, old, to, new, flags);
}
int symlink(const char *to, const char *name)
{
    char path[PATH_MAX];
    absolute(path, AT_FDCWD, name);
    if (inside(path)) append((struct record){.kind = STRANGE}, path, "symlink", NULL, 0);
    return syscall(SYS_symlinkat, to, AT_FDCWD, name);
}
