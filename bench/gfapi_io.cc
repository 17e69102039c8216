// Files by libgfapi in the process itself, as a program that was written for GlusterFS would.
// `where` is SERVER:VOLUME[/DIRECTORY].
#include <fcntl.h>
#include <glusterfs/api/glfs.h>

#include <cerrno>
#include <cstring>

#include "bench/io.h"

namespace booster::bench {
namespace {

constexpr int kGlusterdPort = 24007;
glfs_t* volume = nullptr;
std::string directory;

class GfapiFile final : public File {
 public:
  GfapiFile(glfs_fd_t* fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  ~GfapiFile() override {
    if (glfs_close(fd_) != 0) fail_at("close", -1);
  }
  GfapiFile(const GfapiFile&) = delete;
  GfapiFile& operator=(const GfapiFile&) = delete;

  void read(void* buffer, size_t length) override {
    check("read", glfs_read(fd_, buffer, length, 0), length);
  }
  void write(const void* buffer, size_t length) override {
    check("write", glfs_write(fd_, buffer, length, 0), length);
  }
  void rewind() override { check("lseek", glfs_lseek(fd_, 0, SEEK_SET), 0); }
  void pread(void* buffer, size_t length, uint64_t offset) override {
    check("pread", glfs_pread(fd_, buffer, length, static_cast<off_t>(offset), 0, nullptr), length);
  }
  void pwrite(const void* buffer, size_t length, uint64_t offset) override {
    check("pwrite",
          glfs_pwrite(fd_, buffer, length, static_cast<off_t>(offset), 0, nullptr, nullptr),
          length);
  }
  void data_sync() override { check("fdatasync", glfs_fdatasync(fd_, nullptr, nullptr), 0); }
  void lock() override { set_lock(F_WRLCK); }
  void unlock() override { set_lock(F_UNLCK); }

 private:
  void set_lock(short type) {
    struct flock whole {};
    whole.l_type = type;
    check("lock", glfs_posix_lock(fd_, F_SETLKW, &whole), 0);
  }
  void check(const char* call, ssize_t result, size_t wanted) {
    if (result != static_cast<ssize_t>(wanted)) fail_at(call, result);
  }
  [[noreturn]] void fail_at(const char* call, ssize_t result) {
    const std::string why = result < 0 ? strerrordesc_np(errno) : "short";
    fail(std::string(call) + " of " + name_ + ": " + why);
  }

  glfs_fd_t* fd_;
  std::string name_;
};

}  // namespace

void start_io(const std::string& where) {
  const size_t colon = where.find(':');
  if (colon == std::string::npos) fail("'" + where + "' is not SERVER:VOLUME[/DIRECTORY]");
  const std::string server = where.substr(0, colon);
  const size_t slash = where.find('/', colon);
  const std::string name =
      where.substr(colon + 1, slash == std::string::npos ? slash : slash - colon - 1);
  directory = slash == std::string::npos ? "" : where.substr(slash);
  volume = glfs_new(name.c_str());
  if (!volume || glfs_set_logging(volume, "/dev/null", 1) != 0 ||
      glfs_set_volfile_server(volume, "tcp", server.c_str(), kGlusterdPort) != 0 ||
      glfs_init(volume) != 0) {
    fail("cannot start libgfapi for " + where + ": " + strerrordesc_np(errno));
  }
}

std::unique_ptr<File> open_file(const std::string& name, Open how) {
  const std::string path = directory + "/" + name;
  glfs_fd_t* fd = nullptr;
  if (how == Open::kCreate || how == Open::kAppend) {
    const int flags = O_WRONLY | (how == Open::kAppend ? O_APPEND : O_TRUNC);
    fd = glfs_creat(volume, path.c_str(), flags, 0644);
  } else {
    const int flags = how == Open::kRead ? O_RDONLY : O_RDWR;
    fd = glfs_open(volume, path.c_str(), flags);
  }
  if (!fd) fail("cannot open " + path + ": " + strerrordesc_np(errno));
  return std::make_unique<GfapiFile>(fd, path);
}

}  // namespace booster::bench
