// Builds and ends libgfapi contexts.
#include "daemon/gluster/context.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glusterfs/api/glfs.h>
#include <netdb.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

#include "daemon/gluster/worker.h"
#include "daemon/stats/process.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::gluster {
namespace {

constexpr int kGlusterdPort = 24007;
constexpr std::chrono::milliseconds kReachTimeout{2000};

/// glfs_init waits for a silent server as long as TCP does, so this looks first. True if somebody
/// accepts a connection there within two seconds for each address.
bool is_reachable(const VolfileServer& server) {
  const auto connects = [](int family, const sockaddr* address, socklen_t size) {
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return false;
    if (::connect(fd.get(), address, size) == 0) return true;
    if (errno != EINPROGRESS) return false;
    pollfd poll_fd{fd.get(), POLLOUT, 0};
    if (::poll(&poll_fd, 1, static_cast<int>(kReachTimeout.count())) != 1) return false;
    int error = 0;
    socklen_t error_size = sizeof error;
    return ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &error_size) == 0 && error == 0;
  };
  if (server.transport == "unix") {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (server.host.size() >= sizeof address.sun_path) return false;
    std::memcpy(address.sun_path, server.host.data(), server.host.size());
    return connects(AF_UNIX, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int port = server.port != 0 ? server.port : kGlusterdPort;
  if (::getaddrinfo(server.host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return false;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  for (const addrinfo* at = found; at; at = at->ai_next) {
    if (connects(at->ai_family, at->ai_addr, at->ai_addrlen)) return true;
  }
  return false;
}

/// libgfapi's numbers for log levels (gf_loglevel_t, glfs.h's comment on glfs_set_logging).
int log_level_number(const std::string& level) {
  if (level == "error") return 4;
  if (level == "warning") return 5;
  if (level == "info") return 7;
  return 8;
}

/// A volume's name comes from a command line and becomes part of a file name.
std::string log_file(const std::string& dir, std::string volume) {
  std::replace_if(
      volume.begin(), volume.end(), [](char c) { return c == '/' || c == '\0' || c == '.'; }, '-');
  return fmt::format("{}/{}.log", dir, volume.empty() ? "volume" : volume);
}

void end_in_background(glfs* fs) {
  run_detached("glfs-fini", [fs] { glfs_fini(fs); });
}

glfs* new_fs(const std::string& volume, const ContextSettings& settings) {
  glfs* fs = glfs_new(volume.c_str());
  if (!fs) return nullptr;
  gfapi_is_up();
  // A directory that cannot be made makes glfs_set_logging fail: no reason not to serve.
  if (::mkdir(settings.log_dir.c_str(), 0750) != 0 && errno != EEXIST) {
    spdlog::warn("event=no-log-dir path={} error=\"{}\"", settings.log_dir, strerrordesc_np(errno));
  }
  const std::string file = log_file(settings.log_dir, volume);
  if (glfs_set_logging(fs, file.c_str(), log_level_number(settings.log_level)) != 0) {
    spdlog::warn("event=no-gluster-log path={}", file);
  }

  struct Option {
    const char* translators;
    const char* key;
    const char* value;
  };
  // Names are patterns over the graph's translators. No layer of booster's own graph may hold back
  // a write (write-behind), answer from its own copy (the caches: the bricks are the truth), or
  // delay an open (open-behind pins them under gfapi). quick-read has no pass-through. io-threads
  // would hand each request to yet another thread, and booster never waits in one. Without
  // post-op delay a replicated file is handed over to FUSE at once (DESIGN sections 5, 6, 9).
  static constexpr Option kOptions[] = {
      {"*-write-behind", "pass-through", "true"}, {"*-read-ahead", "pass-through", "true"},
      {"*-io-cache", "pass-through", "true"},     {"*-open-behind", "pass-through", "true"},
      {"*-md-cache", "pass-through", "true"},     {"*-quick-read", "max-file-size", "0"},
      {"*-io-threads", "pass-through", "true"},   {"*-replicate-*", "post-op-delay-secs", "0"},
  };
  for (const Option& option : kOptions) {
    glfs_set_xlator_option(fs, option.translators, option.key, option.value);
  }
  return fs;
}

/// The graph's text as the server sent it.
std::string volfile_of(glfs* fs) {
  std::string text;
  // A negative answer is the size that it takes. The buffer must not be larger than that: libgfapi
  // copies as many bytes as the buffer has (glfs-mgmt.c).
  ssize_t n = glfs_get_volfile(fs, text.data(), 0);
  while (n < 0) {
    text.resize(text.size() + static_cast<size_t>(-n));
    n = glfs_get_volfile(fs, text.data(), text.size());
  }
  return text;
}

/// libgfapi sets the graph up before it keeps the text of it (glfs_mgmt_getspec_cbk), and glfs_init
/// returns when the bricks are there, on another thread. Empty if the text never comes.
std::string first_volfile_of(glfs* fs) {
  constexpr auto kPatience = std::chrono::seconds(10);
  constexpr auto kLookEvery = std::chrono::milliseconds(1);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    std::string text = volfile_of(fs);
    if (!text.empty() || std::chrono::steady_clock::now() >= deadline) return text;
    std::this_thread::sleep_for(kLookEvery);
  }
}

Outcome<glfs*> start_from_servers(const MountOptions& options, const ContextSettings& settings) {
  std::vector<VolfileServer> servers = options.servers;
  if (servers.empty() || options.volfile_id.empty()) {
    return Failure{std::string("the mount names no volfile server")};
  }
  // One that answers comes first; the others may be needed when it has gone.
  const auto reachable = std::find_if(servers.begin(), servers.end(), is_reachable);
  if (reachable == servers.end()) {
    return Failure{std::string("no volfile server is reachable")};
  }
  std::rotate(servers.begin(), reachable, servers.end());
  glfs* fs = new_fs(options.volfile_id, settings);
  if (!fs) return Failure{std::string("glfs_new failed")};
  for (const VolfileServer& server : servers) {
    glfs_set_volfile_server(fs, server.transport.c_str(), server.host.c_str(), server.port);
  }
  if (glfs_init(fs) != 0) {
    const int error = errno;
    end_in_background(fs);
    return Failure{fmt::format("glfs_init: {}", strerrordesc_np(error))};
  }
  return fs;
}

Outcome<glfs*> start_from_volfile(const std::string& text, const std::string& volume,
                                  const ContextSettings& settings) {
  // The graph can hold credentials, so it stays in memory. libgfapi reads it in glfs_init.
  const UniqueFd file(::memfd_create("volfile", MFD_CLOEXEC));
  if (!file) return Failure{std::string("memfd_create failed")};
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(file.get(), text.data() + written, text.size() - written);
    if (n <= 0) return Failure{std::string("cannot store the volfile")};
    written += static_cast<size_t>(n);
  }
  glfs* fs = new_fs(volume, settings);
  if (!fs) return Failure{std::string("glfs_new failed")};
  if (glfs_set_volfile(fs, fmt::format("/proc/self/fd/{}", file.get()).c_str()) != 0 ||
      glfs_init(fs) != 0) {
    const int error = errno;
    end_in_background(fs);
    return Failure{fmt::format("glfs_init from the mount's volfile: {}", strerrordesc_np(error))};
  }
  return fs;
}

}  // namespace

bool has_translator(const std::string& volfile, const std::string& type) {
  // "    type cluster/disperse", as glusterd and .meta write it.
  return volfile.find("type " + type + "\n") != std::string::npos;
}

bool is_sharded(const std::string& volfile) {
  return has_translator(volfile, "features/shard");
}

uint32_t write_unit(const std::string& volfile) {
  constexpr uint32_t kChunk = 512;
  uint32_t unit = 1;
  bool disperse = false;
  uint32_t redundancy = 0;
  std::istringstream lines(volfile);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "volume") {
      disperse = false;
      redundancy = 0;
    } else if (word == "type") {
      disperse = words >> word && word == "cluster/disperse";
    } else if (word == "option" && words >> word && word == "redundancy") {
      words >> redundancy;
    } else if (word == "subvolumes" && disperse) {
      uint32_t bricks = 0;
      while (words >> word) ++bricks;
      if (bricks > redundancy) unit = std::lcm(unit, (bricks - redundancy) * kChunk);
    }
  }
  return unit;
}

std::string without_meta(const std::string& volfile) {
  static constexpr std::string_view kEnd = "end-volume\n";
  std::string out;
  for (size_t at = 0; at < volfile.size();) {
    // A block goes up to the next one, blank lines between them included.
    size_t end = volfile.find(kEnd, at);
    if (end != std::string::npos) end = volfile.find_first_not_of('\n', end + kEnd.size());
    const std::string block = volfile.substr(at, end == std::string::npos ? end : end - at);
    at += block.size();
    if (!has_translator(block, "meta")) out += block;
  }
  return out;
}

Outcome<std::shared_ptr<Context>> Context::build(const MountOptions& options,
                                                 const ContextSettings& settings,
                                                 const ReadVolfile& read_volfile) {
  const auto before = stats::process_cost();
  const auto start = std::chrono::steady_clock::now();
  const std::string volume = options.volfile_id.empty() ? "volume" : options.volfile_id;

  std::shared_ptr<Context> context;
  const auto from_server = start_from_servers(options, settings);
  if (from_server) {
    const std::string text = first_volfile_of(*from_server);
    context.reset(new Context(*from_server, gluster::write_unit(text), true));
    if (text.empty()) return Failure{std::string("libgfapi does not tell the volume's graph")};
    // The mount may not have it yet, but it will.
    if (is_sharded(text)) return Failure{std::string(kShardedMessage)};
  } else {
    spdlog::info("event=no-volfile-server volume={} reason=\"{}\"", volume, from_server.error());
    const auto text = read_volfile();
    if (!text) return Failure{from_server.error() + "; " + text.error()};
    if (is_sharded(*text)) return Failure{std::string(kShardedMessage)};
    const auto from_mount = start_from_volfile(without_meta(*text), volume, settings);
    if (!from_mount) return Failure{from_server.error() + "; " + from_mount.error()};
    context.reset(new Context(*from_mount, gluster::write_unit(*text), false));
  }

  const auto after = stats::process_cost();
  context->cost_ = {
      .threads = static_cast<int>(after.threads) - static_cast<int>(before.threads),
      .resident_bytes =
          static_cast<int64_t>(after.resident_bytes) - static_cast<int64_t>(before.resident_bytes),
      .connections = static_cast<int>(after.connections) - static_cast<int>(before.connections),
      .build_time = std::chrono::steady_clock::now() - start,
  };
  return context;
}

std::string Context::volfile() const {
  return volfile_of(fs_);
}

Context::~Context() {
  end_in_background(fs_);
}

}  // namespace booster::daemon::gluster
