// Lays out statistics as short tables: what is boosted first, then what is not and why, then where.
#include "ctl/stats_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>
#include <vector>

#include "ctl/output.h"
#include "ctl/units.h"

namespace booster::ctl {
namespace {

/// Rows of sessions and files that a page shows; --json shows all.
constexpr size_t kMostRows = 20;

/// Columns of a terminal that UTF-8 text takes, as far as its letters are one wide.
size_t columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xc0') != '\x80'; }));
}

/// Text in columns that are as wide as they must be. The first row is the heading.
class Table {
 public:
  /// `left`: one character a column, 'l' aligned left, 'r' right.
  explicit Table(std::string alignment) : alignment_(std::move(alignment)) {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// A line of its own under the row that was added last.
  void add_note(std::string note) { rows_.push_back({std::move(note)}); }

  std::string text() const {
    std::vector<size_t> width(alignment_.size());
    for (const auto& row : rows_) {
      if (row.size() == 1) continue;
      for (size_t i = 0; i < row.size(); ++i) {
        width[i] = std::max(width[i], columns(row[i]));
      }
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line;
      if (row.size() == 1) {
        line = "  " + row[0];
      } else {
        for (size_t i = 0; i < row.size(); ++i) {
          line += i == 0 ? "" : "  ";
          const std::string padding(width[i] - columns(row[i]), ' ');
          line += alignment_[i] == 'l' ? row[i] + padding : padding + row[i];
        }
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + '\n';
    }
    return out;
  }

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

/// Turns two readings of a counter into "per second"; empty text without an earlier reading.
class Rates {
 public:
  Rates(const admin::Stats& now, const admin::Stats* before)
      : seconds_(before ? now.uptime_seconds() - before->uptime_seconds() : 0) {}

  bool known() const { return seconds_ > 0; }
  double of(uint64_t now, uint64_t before) const {
    return known() && now >= before ? static_cast<double>(now - before) / seconds_ : 0;
  }
  std::string calls(uint64_t now, uint64_t before) const {
    const double rate = of(now, before);
    return known() ? fmt::format("{:.{}f}/s", rate, rate < 9.95 && rate > 0 ? 1 : 0) : "";
  }
  std::string bytes(uint64_t now, uint64_t before) const {
    return known() ? bytes_text(of(now, before)) + "/s" : "";
  }
  double seconds() const { return seconds_; }

 private:
  double seconds_;
};

struct Count {
  uint64_t calls = 0;
  uint64_t bytes = 0;
};

using Reasons = std::map<std::string, Count>;

template <class List>
Reasons by_reason(const List& list) {
  Reasons reasons;
  for (const auto& entry : list) {
    // What the clients boosted is shown as the daemon counted it.
    if (entry.reason() == "boosted") continue;
    reasons[entry.reason()].calls += entry.calls();
    reasons[entry.reason()].bytes += entry.bytes();
  }
  return reasons;
}

std::string daemon_lines(const admin::Stats& now, const admin::Stats* before, const Rates& rates) {
  const auto& process = now.process();
  double seconds = now.uptime_seconds();
  double cpu = process.cpu_seconds();
  if (rates.known()) {
    seconds = rates.seconds();
    cpu -= before->process().cpu_seconds();
  }
  const double percent = seconds > 0 ? 100 * std::max(cpu, 0.0) / seconds : 0;
  return fmt::format(
      "boosterd {}, pid {}, up {}\n"
      "CPU {} ({:.1f} %{}), memory {}, {}, {}\n",
      printable(now.version()), now.pid(), duration_text(now.uptime_seconds()),
      duration_text(process.cpu_seconds()), percent, rates.known() ? " now" : "",
      bytes_text(static_cast<double>(process.resident_bytes())),
      count_of(process.threads(), "thread"), count_of(process.descriptors(), "descriptor"));
}

std::string boosted(const admin::Stats& now, const admin::Stats* before, const Rates& rates) {
  const auto& totals = now.totals();
  const admin::Totals earlier = before ? before->totals() : admin::Totals();
  const auto latency = [](const admin::Latency& value, double us) {
    return value.count() == 0 ? std::string("-") : latency_text(us);
  };
  Table table("lrrrrrr");
  table.add({"BOOSTED", "calls", "bytes", rates.known() ? "calls" : "",
             rates.known() ? "bytes" : "", "p50", "p99"});
  table.add({"reads", count_text(totals.read_calls()),
             bytes_text(static_cast<double>(totals.read_bytes())),
             rates.calls(totals.read_calls(), earlier.read_calls()),
             rates.bytes(totals.read_bytes(), earlier.read_bytes()),
             latency(now.read_latency(), now.read_latency().p50_us()),
             latency(now.read_latency(), now.read_latency().p99_us())});
  if (now.cache().budget() > 0 || totals.cached_calls() > 0) {
    table.add({"cached", count_text(totals.cached_calls()),
               bytes_text(static_cast<double>(totals.cached_bytes())),
               rates.calls(totals.cached_calls(), earlier.cached_calls()),
               rates.bytes(totals.cached_bytes(), earlier.cached_bytes()), "-", "-"});
  }
  table.add({"writes", count_text(totals.write_calls()),
             bytes_text(static_cast<double>(totals.write_bytes())),
             rates.calls(totals.write_calls(), earlier.write_calls()),
             rates.bytes(totals.write_bytes(), earlier.write_bytes()),
             latency(now.write_latency(), now.write_latency().p50_us()),
             latency(now.write_latency(), now.write_latency().p99_us())});
  std::string text = table.text();

  Count passed;
  for (const auto& [reason, count] : by_reason(now.passed())) passed.bytes += count.bytes;
  const auto moved =
      static_cast<double>(totals.read_bytes() + totals.cached_bytes() + totals.write_bytes());
  const double all = moved + static_cast<double>(passed.bytes);
  if (all > 0) text += fmt::format("{:.1f} % of the bytes were boosted", 100 * moved / all);
  if (totals.errors() > 0) {
    text += fmt::format("{}{} answered with an error by GlusterFS", all > 0 ? ", " : "",
                        count_of(totals.errors(), "request"));
  }
  if (all > 0 || totals.errors() > 0) text += '\n';
  if (now.held_answers() > 0) {
    text += fmt::format(
        "{} could not be told to have failed: bricks may still do them; each waits {}\n",
        count_of(now.held_answers(), "write"), duration_text(now.quarantine_ms() / 1000.0));
  }
  return text;
}

std::string page_cache(const admin::Stats& now) {
  const auto& cache = now.cache();
  if (cache.budget() == 0) return {};
  const auto bytes = [](uint64_t value) { return bytes_text(static_cast<double>(value)); };
  return fmt::format(
      "Page cache: {} of {} in {}; {} came from the bricks in {}, {} went for want of room\n",
      bytes(cache.used()), bytes(cache.budget()), count_of(cache.files(), "file"),
      bytes(cache.filled()), count_of(cache.fills(), "request"), bytes(cache.evicted()));
}

std::string left_to_the_kernel(const admin::Stats& now, const admin::Stats* before,
                               const Rates& rates) {
  const Reasons reasons = by_reason(now.passed());
  const Reasons earlier = before ? by_reason(before->passed()) : Reasons();
  std::vector<std::pair<std::string, Count>> rows;
  std::copy_if(reasons.begin(), reasons.end(), std::back_inserter(rows),
               [](const auto& row) { return row.second.calls > 0 || row.second.bytes > 0; });
  if (rows.empty()) return {};
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second.bytes, a.second.calls) > std::tie(b.second.bytes, b.second.calls);
  });
  Table table("lrrrr");
  table.add({"LEFT TO THE KERNEL", "calls", "bytes", rates.known() ? "calls" : "",
             rates.known() ? "bytes" : ""});
  for (const auto& [reason, count] : rows) {
    const auto found = earlier.find(reason);
    const Count old = found == earlier.end() ? Count() : found->second;
    table.add({printable(reason), count_text(count.calls),
               bytes_text(static_cast<double>(count.bytes)), rates.calls(count.calls, old.calls),
               rates.bytes(count.bytes, old.bytes)});
  }
  return table.text();
}

std::string refused(const admin::Stats& now) {
  std::vector<const admin::Refused*> rows;
  for (const auto& entry : now.totals().refused()) {
    if (entry.count() > 0) rows.push_back(&entry);
  }
  if (rows.empty()) return {};
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto* a, const auto* b) { return a->count() > b->count(); });
  Table table("lr");
  table.add({"REFUSED TO ENGAGE", "files"});
  for (const auto* row : rows) table.add({printable(row->reason()), count_text(row->count())});
  return table.text();
}

const char* state_text(admin::Mount::ContextState state) {
  switch (state) {
    case admin::Mount::NONE: return "none";
    case admin::Mount::BUILDING: return "building";
    case admin::Mount::READY: return "ready";
    case admin::Mount::FAILED: return "failed";
    case admin::Mount::CLOSING: return "closing";
    default: return "unknown";
  }
}

std::string mounts(const admin::Stats& now) {
  if (now.mounts().empty()) return "No file of any mount has been engaged yet.\n";
  Table table("lllrrrrrrrr");
  table.add({"MOUNT", "SOURCE", "context", "files", "handles", "idle", "threads", "memory",
             "connections", "build", "builds"});
  for (const auto& mount : now.mounts()) {
    // What a context cost stays known after it was closed, but then it costs nothing.
    const bool costs =
        mount.context() == admin::Mount::READY || mount.context() == admin::Mount::CLOSING;
    const auto cost = [costs](std::string text) { return costs ? std::move(text) : "-"; };
    table.add({printable(mount.mount_point()), printable(mount.source()),
               state_text(mount.context()), count_text(mount.engaged_inodes()),
               count_text(mount.handles()),
               mount.idle_seconds() > 0 ? duration_text(mount.idle_seconds()) : "in use",
               cost(count_text(mount.threads())),
               cost(bytes_text(static_cast<double>(mount.resident_bytes()))),
               cost(count_text(mount.connections())), cost(duration_text(mount.build_seconds())),
               count_text(mount.contexts_built())});
    if (!mount.error().empty()) table.add_note(printable(mount.error()));
    if (costs && mount.volfile_from() == "mount") {
      table.add_note("(volfile read through the mount: no volfile server answered)");
    }
  }
  return table.text();
}

std::string more_rows(size_t all) {
  return all > kMostRows
             ? fmt::format("  and {} more: --json shows all\n", count_text(all - kMostRows))
             : "";
}

uint64_t moved_bytes(const admin::Session& session) {
  return session.read_bytes() + session.cached_bytes() + session.write_bytes();
}

std::string sessions(const admin::Stats& now, const admin::Stats* before, const Rates& rates) {
  const auto& totals = now.totals();
  std::string text = fmt::format("{} of {} that were opened since the start",
                                 count_of(static_cast<uint64_t>(now.sessions_size()), "session"),
                                 count_text(totals.sessions_opened()));
  if (totals.sessions_refused() > 0) {
    text += fmt::format("; {} refused", count_text(totals.sessions_refused()));
  }
  if (totals.sessions_ended_for_lies() > 0) {
    text += fmt::format("; {} ended for breaking the protocol",
                        count_text(totals.sessions_ended_for_lies()));
  }
  text += '\n';
  if (now.sessions().empty()) return text;

  std::map<uint64_t, const admin::Session*> earlier;
  if (before) {
    for (const auto& session : before->sessions()) earlier[session.id()] = &session;
  }
  std::vector<const admin::Session*> rows;
  for (const auto& session : now.sessions()) rows.push_back(&session);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto* a, const auto* b) { return moved_bytes(*a) > moved_bytes(*b); });
  Table table("rlrrrrrrrr");
  table.add({"PID", "COMMAND", "uid", "age", "handles", "read", "cached", "written",
             rates.known() ? "reading" : "", rates.known() ? "writing" : ""});
  for (size_t i = 0; i < std::min(rows.size(), kMostRows); ++i) {
    const admin::Session& row = *rows[i];
    const auto found = earlier.find(row.id());
    const admin::Session old = found == earlier.end() ? admin::Session() : *found->second;
    table.add(
        {std::to_string(row.pid()), printable(row.command()), std::to_string(row.uid()),
         duration_text(row.age_seconds()), count_text(row.handles()),
         bytes_text(static_cast<double>(row.read_bytes())),
         bytes_text(static_cast<double>(row.cached_bytes())),
         bytes_text(static_cast<double>(row.write_bytes())),
         rates.bytes(row.read_bytes() + row.cached_bytes(), old.read_bytes() + old.cached_bytes()),
         rates.bytes(row.write_bytes(), old.write_bytes())});
  }
  return text + table.text() + more_rows(rows.size());
}

std::string engaged_files(const admin::Stats& now) {
  struct File {
    const admin::Engaged* engaged = nullptr;
    bool readable = false;
    bool writable = false;
    std::vector<std::string> pids;
  };
  std::map<std::tuple<uint32_t, uint32_t, uint64_t>, File> files;
  for (const auto& session : now.sessions()) {
    for (const auto& engaged : session.files()) {
      File& file = files[{engaged.dev_major(), engaged.dev_minor(), engaged.inode()}];
      file.engaged = &engaged;
      file.readable |= engaged.readable();
      file.writable |= engaged.writable();
      const std::string pid = std::to_string(session.pid());
      if (file.pids.empty() || file.pids.back() != pid) file.pids.push_back(pid);
    }
  }
  if (files.empty()) return {};
  std::map<std::pair<uint32_t, uint32_t>, std::string> mount_points;
  for (const auto& mount : now.mounts()) {
    mount_points[{mount.dev_major(), mount.dev_minor()}] = mount.mount_point();
  }
  Table table("lrlll");
  table.add({"FILE (gfid)", "inode", "for", "mount", "pid"});
  size_t shown = 0;
  for (const auto& [key, file] : files) {
    if (shown++ == kMostRows) break;
    const auto& [dev_major, dev_minor, inode] = key;
    const auto mount = mount_points.find({dev_major, dev_minor});
    table.add({printable(file.engaged->gfid()), std::to_string(inode),
               file.readable && file.writable ? "rw"
               : file.writable                ? "w"
                                              : "r",
               mount == mount_points.end() ? fmt::format("{}:{}", dev_major, dev_minor)
                                           : printable(mount->second),
               fmt::format("{}", fmt::join(file.pids, ","))});
  }
  return table.text() + more_rows(files.size());
}

}  // namespace

bool same_daemon(const admin::Stats& before, const admin::Stats& now) {
  return before.pid() == now.pid() && before.uptime_seconds() < now.uptime_seconds();
}

std::string stats_text(const admin::Stats& now, const admin::Stats* before) {
  if (before && !same_daemon(*before, now)) before = nullptr;
  const Rates rates(now, before);
  std::string page = daemon_lines(now, before, rates);
  for (const std::string& part :
       {boosted(now, before, rates), page_cache(now), left_to_the_kernel(now, before, rates),
        refused(now), mounts(now), sessions(now, before, rates), engaged_files(now)}) {
    if (!part.empty()) page += '\n' + part;
  }
  return page;
}

}  // namespace booster::ctl
