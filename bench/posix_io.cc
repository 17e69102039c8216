// Files by system calls: on a FUSE mount, with or without booster. `where` is a directory.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bench/io.h"

namespace booster::bench {
namespace {

std::string directory;

class PosixFile final : public File {
 public:
  PosixFile(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  ~PosixFile() override {
    if (::close(fd_) != 0) fail_at("close", -1);
  }
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  void read(void* buffer, size_t length) override {
    check("read", ::read(fd_, buffer, length), length);
  }
  void write(const void* buffer, size_t length) override {
    check("write", ::write(fd_, buffer, length), length);
  }
  void rewind() override { check("lseek", ::lseek(fd_, 0, SEEK_SET), 0); }
  void pread(void* buffer, size_t length, uint64_t offset) override {
    check("pread", ::pread(fd_, buffer, length, static_cast<off_t>(offset)), length);
  }
  void pwrite(const void* buffer, size_t length, uint64_t offset) override {
    check("pwrite", ::pwrite(fd_, buffer, length, static_cast<off_t>(offset)), length);
  }
  void data_sync() override { check("fdatasync", ::fdatasync(fd_), 0); }
  void lock() override { set_lock(F_WRLCK); }
  void unlock() override { set_lock(F_UNLCK); }

 private:
  void set_lock(short type) {
    struct flock whole {};
    whole.l_type = type;
    check("fcntl", ::fcntl(fd_, F_SETLKW, &whole), 0);
  }
  void check(const char* call, ssize_t result, size_t wanted) {
    if (result != static_cast<ssize_t>(wanted)) fail_at(call, result);
  }
  [[noreturn]] void fail_at(const char* call, ssize_t result) {
    const std::string why = result < 0 ? strerrordesc_np(errno) : "short";
    fail(std::string(call) + " of " + name_ + ": " + why);
  }

  int fd_;
  std::string name_;
};

}  // namespace

void start_io(const std::string& where) {
  directory = where;
}

std::unique_ptr<File> open_file(const std::string& name, Open how) {
  const std::string path = directory + "/" + name;
  int flags = O_RDWR;
  if (how == Open::kRead) flags = O_RDONLY;
  if (how == Open::kCreate) flags = O_WRONLY | O_CREAT | O_TRUNC;
  if (how == Open::kAppend) flags = O_WRONLY | O_CREAT | O_APPEND;
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) fail("cannot open " + path + ": " + strerrordesc_np(errno));
  return std::make_unique<PosixFile>(fd, path);
}

}  // namespace booster::bench
