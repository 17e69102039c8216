// How a mount was started: the command line of its glusterfs process, as `.meta/cmdline` at the
// mount's root shows it. Parsing only; reads nothing itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace booster::daemon::gluster {

struct VolfileServer {
  std::string transport;  // "tcp" or "unix"
  std::string host;       // or the path of the Unix socket
  int port = 0;           // 0: the default
};

struct MountOptions {
  std::vector<VolfileServer> servers;  // in the order of the command line
  std::string volfile_id;              // the volume, without a leading slash
  std::string volfile;                 // path, when mounted from a file
  std::string subdir;                  // of --subdir-mount
  bool writeback_cache = false;        // --kernel-writeback-cache
  bool read_only = false;              // --read-only or --worm
  bool capability = false;             // --capability: files can have security.capability
  // --direct-io-mode, or an --attribute-timeout of less than a second: programs must not be shown
  // copies of what other hosts may have changed meanwhile.
  bool wants_no_copies = false;
};

/// Parses the content of `.meta/cmdline`: { "Cmdlinestr": "glusterfs --option=value … /mnt" }, the
/// arguments joined by single spaces, nothing escaped.
MountOptions parse_meta_cmdline(std::string_view text);

}  // namespace booster::daemon::gluster
