// The daemon's own mount table, as the kernel tells it now. A match proves something only together
// with a descriptor that pins the mount, since device numbers are reused.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

/// One line of /proc/self/mountinfo (proc(5)), with octal escapes undone.
struct MountLine {
  uint64_t mount_id = 0;
  unsigned major = 0;
  unsigned minor = 0;
  std::string root;
  std::string mount_point;
  std::string options;  // of this place, besides those of the superblock
  std::string type;
  std::string source;
  std::string super_options;
};

/// False if the line is not of the form that proc(5) describes.
bool parse_mount_line(std::string_view line, MountLine& out);

/// All lines of device `dev` in a whole mount table. Lines that cannot be parsed are left out.
std::vector<MountLine> lines_of_device(std::string_view table, dev_t dev);

/// True if `option` is one of the comma-separated options, exactly.
bool has_option(std::string_view options, std::string_view option);

/// True if every line is a fuse.glusterfs that root mounted: the only mounts whose answers are
/// believed (DESIGN section 4, "Genuine mounts only"). False for no line.
bool is_genuine(const std::vector<MountLine>& lines);

/// True if the way to `mount_point` leads through a FUSE mount of an ordinary user, whose server
/// can make whoever looks there wait for ever.
bool below_users_fuse(std::string_view table, std::string_view mount_point);

/// Keeps /proc/self/mountinfo open. One for each thread: not safe for concurrent use.
class MountTable {
 public:
  static Result<MountTable> open();

  /// The whole table as of now.
  Result<std::string> read() const;

  int fd() const { return fd_.get(); }

 private:
  explicit MountTable(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace booster::daemon::control
