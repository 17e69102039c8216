// A FUSE file system of an ordinary user that poses as GlusterFS: type fuse.glusterfs, any inode
// number, any gfid, and the files of .meta that boosterd reads on a genuine mount. On demand it
// stops answering. It logs who asked what, so that a test can tell whether the daemon asked at all.
//
//   fake_gluster MOUNTPOINT GFID INODE SIZE LOG [MOUNT OPTION…]
//
// Says "ready" once it is mounted. Takes commands on standard input: "silent" (no request is
// answered any more), "answer" (later requests are), "noflush" (closing sends no FLUSH from the
// next open on); the end of the input ends it. Each command is confirmed by a line.
#define FUSE_USE_VERSION 34

#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

// Node ids. The inode number that programs see is another thing: kFile's is given.
enum Node : fuse_ino_t { kRoot = FUSE_ROOT_ID, kFile = 2, kMeta, kCmdline, kUuid };

struct Fake {
  std::string gfid;  // 16 raw bytes
  ino_t inode = 0;
  off_t size = 0;
  bool no_flush = false;
};
Fake fake;

const std::string kCmdlineText =
    "{\n  \"Cmdlinestr\": \"/usr/sbin/glusterfs --process-name fuse --volfile-server=10.89.0.1 "
    "--volfile-id=/vol1 /mnt\"\n}\n";
const std::string kUuidText = "CTX_ID:00000000-0000-0000-0000-000000000000-GRAPH_ID:0\n";
constexpr double kForAnHour = 3600;

const std::string* text_of(fuse_ino_t node) {
  if (node == kCmdline) return &kCmdlineText;
  if (node == kUuid) return &kUuidText;
  return nullptr;
}

bool attributes(fuse_ino_t node, struct stat& status) {
  status = {};
  status.st_uid = ::getuid();
  status.st_gid = ::getgid();
  switch (node) {
    case kRoot:
    case kMeta:
      status.st_mode = S_IFDIR | 0777;
      status.st_nlink = 2;
      status.st_ino = node;
      return true;
    case kFile:
      status.st_mode = S_IFREG | 0666;
      status.st_nlink = 1;
      status.st_ino = fake.inode;
      status.st_size = fake.size;
      return true;
    default:
      if (!text_of(node)) return false;
      status.st_mode = S_IFREG | 0444;
      status.st_nlink = 1;
      status.st_ino = node;
      status.st_size = static_cast<off_t>(text_of(node)->size());
      return true;
  }
}

void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const struct {
    fuse_ino_t parent;
    const char* name;
    fuse_ino_t node;
  } names[] = {{kRoot, "file", kFile},
               {kRoot, ".meta", kMeta},
               {kMeta, "cmdline", kCmdline},
               {kMeta, "process_uuid", kUuid}};
  for (const auto& entry : names) {
    if (entry.parent != parent || std::strcmp(entry.name, name) != 0) continue;
    fuse_entry_param found{};
    found.ino = entry.node;
    found.attr_timeout = found.entry_timeout = kForAnHour;
    attributes(entry.node, found.attr);
    fuse_reply_entry(request, &found);
    return;
  }
  fuse_reply_err(request, ENOENT);
}

void getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info* /*file*/) {
  struct stat status {};
  if (attributes(node, status)) {
    fuse_reply_attr(request, &status, kForAnHour);
  } else {
    fuse_reply_err(request, ENOENT);
  }
}

void setattr(fuse_req_t request, fuse_ino_t node, struct stat* /*wanted*/, int /*which*/,
             fuse_file_info* file) {
  getattr(request, node, file);
}

void open_node(fuse_req_t request, fuse_ino_t /*node*/, fuse_file_info* file) {
  file->noflush = fake.no_flush ? 1 : 0;
  fuse_reply_open(request, file);
}

void read_node(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
               fuse_file_info* /*file*/) {
  std::string bytes;
  if (const std::string* text = text_of(node)) {
    if (offset < static_cast<off_t>(text->size())) {
      bytes = text->substr(static_cast<size_t>(offset), size);
    }
  } else if (offset < fake.size) {
    bytes.assign(std::min(size, static_cast<size_t>(fake.size - offset)), 'F');
  }
  fuse_reply_buf(request, bytes.data(), bytes.size());
}

void write_node(fuse_req_t request, fuse_ino_t /*node*/, const char* /*bytes*/, size_t size,
                off_t /*offset*/, fuse_file_info* /*file*/) {
  fuse_reply_write(request, size);
}

void getxattr(fuse_req_t request, fuse_ino_t /*node*/, const char* name, size_t size) {
  if (std::strcmp(name, "glusterfs.gfid") != 0) {
    fuse_reply_err(request, ENODATA);
  } else if (size == 0) {
    fuse_reply_xattr(request, fake.gfid.size());
  } else if (size < fake.gfid.size()) {
    fuse_reply_err(request, ERANGE);
  } else {
    fuse_reply_buf(request, fake.gfid.data(), fake.gfid.size());
  }
}

void flush(fuse_req_t request, fuse_ino_t /*node*/, fuse_file_info* /*file*/) {
  fuse_reply_err(request, 0);
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

/// Serves until standard input ends.
int serve(fuse_session* session, FILE* log) {
  bool silent = false;
  fuse_buf buffer{};
  while (fuse_session_exited(session) == 0) {
    std::array<pollfd, 2> sources{
        {{fuse_session_fd(session), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
    if (::poll(sources.data(), sources.size(), -1) < 0 && errno != EINTR) return 1;
    if (sources[1].revents != 0) {
      char command[64];
      const ssize_t n = ::read(STDIN_FILENO, command, sizeof command - 1);
      if (n <= 0) return 0;
      command[n] = '\0';
      if (std::strncmp(command, "silent", 6) == 0) silent = true;
      if (std::strncmp(command, "answer", 6) == 0) silent = false;
      if (std::strncmp(command, "noflush", 7) == 0) fake.no_flush = true;
      std::printf("%s", command);
    }
    if ((sources[0].revents & POLLIN) == 0) {
      if (sources[0].revents != 0) return 0;  // unmounted, or the connection was aborted
      continue;
    }
    const int n = fuse_session_receive_buf(session, &buffer);
    if (n == -EINTR || n == -EAGAIN) continue;
    if (n <= 0) return 0;
    const auto* header = static_cast<const fuse_in_header*>(buffer.mem);
    std::fprintf(log, "pid=%u opcode=%u%s\n", header->pid, header->opcode, silent ? " silent" : "");
    if (!silent) fuse_session_process_buf(session, &buffer);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: fake_gluster MOUNTPOINT GFID INODE SIZE LOG [MOUNT OPTION…]\n");
    return 2;
  }
  fake.gfid = from_hex(argv[2]);
  fake.inode = std::strtoull(argv[3], nullptr, 10);
  fake.size = std::strtoll(argv[4], nullptr, 10);
  FILE* log = std::fopen(argv[5], "a");
  if (!log) {
    std::perror(argv[5]);
    return 1;
  }
  ::setvbuf(log, nullptr, _IOLBF, 0);
  ::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::string options = "subtype=glusterfs,fsname=10.89.0.1:/vol1";
  for (int i = 6; i < argc; ++i) options += std::string(",") + argv[i];
  std::array<char*, 3> words{argv[0], const_cast<char*>("-o"), options.data()};
  fuse_args arguments = FUSE_ARGS_INIT(static_cast<int>(words.size()), words.data());

  fuse_lowlevel_ops operations{};
  operations.lookup = lookup;
  operations.getattr = getattr;
  operations.setattr = setattr;
  operations.open = open_node;
  operations.read = read_node;
  operations.write = write_node;
  operations.getxattr = getxattr;
  operations.flush = flush;
  fuse_session* session = fuse_session_new(&arguments, &operations, sizeof operations, nullptr);
  if (!session || fuse_session_mount(session, argv[1]) != 0) return 1;
  std::printf("ready\n");
  const int status = serve(session, log);
  // Not unmounted here: what is mounted at the path by now may be something else. Closing the
  // device aborts the connection, so that nobody hangs.
  ::_exit(status);
}
