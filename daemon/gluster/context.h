// One libgfapi context: GlusterFS's client for one mount, inside the daemon. Made by a thread that
// may block for as long as it takes, ended by a thread that nobody waits for.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "daemon/gluster/cmdline.h"
#include "daemon/result.h"

struct glfs;  // glfs_t; only daemon/gluster includes libgfapi's headers

namespace booster::daemon::gluster {

/// What building it cost: threads and memory of the daemon, connections to servers and bricks.
struct ContextCost {
  int threads = 0;
  int64_t resident_bytes = 0;
  int connections = 0;
  std::chrono::duration<double> build_time{};
};

struct ContextSettings {
  std::string log_dir;
  std::string log_level;
};

/// True if the graph described by `volfile` has a translator of this type, e.g. "cluster/disperse".
bool has_translator(const std::string& volfile, const std::string& type);

/// In bytes, what the volume of that graph writes as a whole: 1, or the stripe of a disperse
/// volume, 512 bytes for each brick that holds data (EC_METHOD_CHUNK_SIZE in GlusterFS's
/// ec-method.h). Of a shorter write the client there reads the rest of the stripe and writes all of
/// it anew, to all bricks; one that is killed when some have it and others do not leaves a stripe
/// that nobody can decode, with bytes in it that were answered long before.
uint32_t write_unit(const std::string& volfile);

/// True if the volume is sharded, which booster leaves alone. Each client's shard translator keeps
/// a file's size and blocks to itself and adds to the size what it believes it has added
/// (shard_refresh_base_file, shard_update_file_size; v10.3, shard.c), and its fallocate knows no
/// KEEP_SIZE, so that there is no fence. FUSE beside booster breaks files.
bool is_sharded(const std::string& volfile);
inline constexpr const char kShardedMessage[] =
    "the volume is sharded, which GlusterFS supports for one client at a time only";

/// The graph of a mount as `.meta` shows it, without what libgfapi adds by itself: a second "meta"
/// translator of the same name makes the graph invalid.
std::string without_meta(const std::string& volfile);

class Context {
 public:
  /// Reads the volfile of the mount's own graph through the mount; may block.
  using ReadVolfile = std::function<Outcome<std::string>()>;

  /// Blocks, possibly for minutes. Asks the mount's volfile servers for the volume's graph, since
  /// they tell later changes of the volume, too; without them, uses the mount's own graph.
  static Outcome<std::shared_ptr<Context>> build(const MountOptions& options,
                                                 const ContextSettings& settings,
                                                 const ReadVolfile& read_volfile);

  /// Ends the context on a detached thread: glfs_fini can take ten seconds. All operations and open
  /// files of the context have ended by then, since each holds a reference.
  ~Context();

  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  glfs* fs() const { return fs_; }
  /// The graph has a cluster/disperse translator: answered writes need a flush to stay.
  bool disperse() const { return write_unit_ > 1; }
  /// Writes begin and end at multiples of so many bytes: see write_unit() above.
  uint32_t write_unit() const { return write_unit_; }
  bool from_server() const { return from_server_; }

  /// The graph that the servers last told of, which may have changed since build(). Waits while
  /// libgfapi switches to a new one.
  std::string volfile() const;

  /// From now on every read and write of its files is refused. Any thread.
  void condemn() { condemned_.store(true, std::memory_order_relaxed); }
  /// relaxed: whoever looks late is as late as the news from the servers was.
  bool condemned() const { return condemned_.load(std::memory_order_relaxed); }

  const ContextCost& cost() const { return cost_; }

 private:
  Context(glfs* fs, uint32_t write_unit, bool from_server)
      : fs_(fs), write_unit_(write_unit), from_server_(from_server) {}

  glfs* fs_;
  uint32_t write_unit_;
  bool from_server_;
  std::atomic<bool> condemned_{false};
  ContextCost cost_;
};

}  // namespace booster::daemon::gluster
