// Makes the hidden tmpfs, and files in it.
#include "daemon/data/cache_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "daemon/control/packet.h"

namespace booster::daemon::data {
namespace {

// Any two directories that are there on every host: in the child's own mount namespace only.
constexpr const char kWritableAt[] = "/proc";
constexpr const char kReadOnlyAt[] = "/dev";

/// In a child: mounts the tmpfs twice where nobody else sees it, and sends both directories to the
/// parent, whose descriptors keep them when this mount namespace is gone.
int mount_and_send(int socket) {
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("booster-cache", kWritableAt, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=0700,nr_inodes=0,size=0") != 0 ||
      ::mount(kWritableAt, kReadOnlyAt, nullptr, MS_BIND, nullptr) != 0 ||
      ::mount(nullptr, kReadOnlyAt, nullptr,
              MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return errno;
  }
  for (const char* directory : {kWritableAt, kReadOnlyAt}) {
    const UniqueFd fd(::open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) return errno;
    if (!control::send(socket, "d", fd.get())) return EIO;
  }
  return 0;
}

}  // namespace

Outcome<std::unique_ptr<CacheStore>> CacheStore::create() {
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return Failure{std::string("socketpair: ") + strerrordesc_np(errno)};
  }
  const UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  const pid_t child = ::fork();
  if (child < 0) return Failure{std::string("fork: ") + strerrordesc_np(errno)};
  if (child == 0) ::_exit(mount_and_send(theirs.get()));
  theirs.reset();

  UniqueFd writable;
  UniqueFd read_only;
  char byte = 0;
  const bool received = control::receive_with_descriptor(ours.get(), &byte, 1, writable) &&
                        control::receive_with_descriptor(ours.get(), &byte, 1, read_only);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!received || !writable || !read_only) {
    const int error = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
    return Failure{fmt::format("cannot mount its tmpfs: {}", strerrordesc_np(error))};
  }
  std::unique_ptr<CacheStore> store(new CacheStore(std::move(writable), std::move(read_only)));
  auto watch = store->make_file(sizeof(common::WatchWord));
  if (!watch) return Failure{"cannot make a file in its tmpfs: " + watch.error().message()};
  store->watch_file_ = std::move(*watch);
  void* map = ::mmap(nullptr, sizeof(common::WatchWord), PROT_READ | PROT_WRITE, MAP_SHARED,
                     store->watch_file_.writable.get(), 0);
  if (map == MAP_FAILED) return Failure{std::string("mmap: ") + strerrordesc_np(errno)};
  store->watch_ = static_cast<common::WatchWord*>(map);
  return store;
}

Result<CacheStore::File> CacheStore::make_file(uint64_t bytes) {
  static std::atomic<uint64_t> next{0};
  const std::string name = std::to_string(next.fetch_add(1, std::memory_order_relaxed));
  File file;
  file.writable.reset(
      ::openat(writable_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
  if (!file.writable) return errno_failure();
  file.read_only.reset(::openat(read_only_.get(), name.c_str(), O_RDONLY | O_CLOEXEC));
  const int error = errno;
  ::unlinkat(writable_.get(), name.c_str(), 0);
  if (!file.read_only) return Failure{std::error_code(error, std::generic_category())};
  if (::ftruncate(file.writable.get(), static_cast<off_t>(bytes)) != 0) {
    return errno_failure();
  }
  return file;
}

uint64_t CacheStore::held(const File& file) {
  struct stat status {};
  if (::fstat(file.writable.get(), &status) != 0) return 0;
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace booster::daemon::data
