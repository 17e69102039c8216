// Fills admin.Stats.
#include "daemon/stats/report.h"

#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "booster_version.h"
#include "common/abi.h"
#include "common/reason.h"
#include "daemon/stats/process.h"

namespace booster::daemon::stats {
namespace {

const char* name_of(size_t reason) {
  return common::reason_name(static_cast<common::Reason>(reason));
}

/// How many bytes of the front of `text` are one character (Unicode, table 3-7); 0: none are.
size_t character_length(std::string_view text) {
  const auto byte = [text](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto in = [](unsigned value, unsigned low, unsigned high) {
    return value >= low && value <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (in(lead, 0xc2, 0xdf)) return in(byte(1), 0x80, 0xbf) ? 2 : 0;
  if (in(lead, 0xe0, 0xef)) {
    const unsigned low = lead == 0xe0 ? 0xa0 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : 0xbf;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xbf) ? 3 : 0;
  }
  if (in(lead, 0xf0, 0xf4)) {
    const unsigned low = lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xf4 ? 0x8f : 0xbf;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xbf) && in(byte(3), 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

template <class Message>
void fill_passed(const PassedSums& sums, Message& message) {
  for (size_t i = 0; i < common::kReasonCount; ++i) {
    if (sums.calls[i] == 0 && sums.bytes[i] == 0) continue;
    admin::Passed& passed = *message.add_passed();
    passed.set_reason(name_of(i));
    passed.set_calls(sums.calls[i]);
    passed.set_bytes(sums.bytes[i]);
  }
}

admin::Mount::ContextState state_of(gluster::ContextState state) {
  switch (state) {
    case gluster::ContextState::kNone: return admin::Mount::NONE;
    case gluster::ContextState::kBuilding: return admin::Mount::BUILDING;
    case gluster::ContextState::kReady: return admin::Mount::READY;
    case gluster::ContextState::kFailed: return admin::Mount::FAILED;
    case gluster::ContextState::kClosing: return admin::Mount::CLOSING;
  }
  return admin::Mount::NONE;
}

void fill(const gluster::MountReport& report, uint64_t handles, admin::Mount& mount) {
  mount.set_dev_major(major(report.place.dev));
  mount.set_dev_minor(minor(report.place.dev));
  if (!report.place.mount_points.empty()) {
    mount.set_mount_point(valid_utf8(report.place.mount_points.front()));
  }
  mount.set_source(valid_utf8(report.place.source));
  mount.set_context(state_of(report.state));
  mount.set_error(report.error);
  mount.set_contexts_built(report.contexts_built);
  mount.set_engaged_inodes(report.engaged_inodes);
  mount.set_handles(handles);
  mount.set_idle_seconds(report.idle_seconds);
  if (report.contexts_built == 0) return;
  mount.set_volfile_from(report.from_server ? "server" : "mount");
  mount.set_threads(static_cast<uint32_t>(std::max(report.cost.threads, 0)));
  mount.set_resident_bytes(static_cast<uint64_t>(std::max<int64_t>(report.cost.resident_bytes, 0)));
  mount.set_connections(static_cast<uint32_t>(std::max(report.cost.connections, 0)));
  mount.set_build_seconds(report.cost.build_time.count());
}

void fill(const SessionReport& report, admin::Session& session) {
  session.set_id(report.id);
  session.set_pid(static_cast<uint32_t>(report.pid));
  session.set_uid(report.uid);
  session.set_command(report.command);
  session.set_handles(report.engaged.size());
  session.set_read_calls(report.read_calls);
  session.set_read_bytes(report.read_bytes);
  session.set_write_calls(report.write_calls);
  session.set_write_bytes(report.write_bytes);
  session.set_age_seconds(report.age_seconds);
  session.set_cached_calls(report.cached_calls);
  session.set_cached_bytes(report.cached_bytes);
  for (const EngagedReport& file : report.engaged) {
    admin::Engaged& engaged = *session.add_files();
    engaged.set_gfid(gluster::to_string(file.gfid));
    engaged.set_dev_major(major(file.dev));
    engaged.set_dev_minor(minor(file.dev));
    engaged.set_inode(file.inode);
    engaged.set_readable((file.flags & common::kHandleReadable) != 0);
    engaged.set_writable((file.flags & common::kHandleWritable) != 0);
  }
  fill_passed(report.passed, session);
}

void fill_totals(const Totals& totals, const std::vector<const PumpStats*>& pumps,
                 admin::Totals& message) {
  message.set_sessions_opened(totals.sessions_opened.get());
  message.set_sessions_refused(totals.sessions_refused.get());
  message.set_sessions_ended_for_lies(totals.sessions_ended_for_lies.get());
  message.set_engaged(totals.engaged.get());
  for (size_t i = 0; i < common::kReasonCount; ++i) {
    if (totals.refused[i].get() == 0) continue;
    admin::Refused& refused = *message.add_refused();
    refused.set_reason(name_of(i));
    refused.set_count(totals.refused[i].get());
  }
  const auto sum = [&pumps](Counter Traffic::*counter) {
    uint64_t total = 0;
    for (const PumpStats* pump : pumps) total += (pump->traffic.*counter).get();
    return total;
  };
  message.set_read_calls(sum(&Traffic::read_calls));
  message.set_read_bytes(sum(&Traffic::read_bytes));
  message.set_write_calls(sum(&Traffic::write_calls));
  message.set_write_bytes(sum(&Traffic::write_bytes));
  message.set_errors(sum(&Traffic::errors));
  message.set_doorbells(sum(&Traffic::doorbells));
  message.set_logged_calls(sum(&Traffic::logged_calls));
}

void fill(const CacheReport& report, admin::Cache& cache) {
  cache.set_budget(report.budget);
  cache.set_used(report.used);
  cache.set_files(report.files);
  cache.set_filled(report.filled);
  cache.set_evicted(report.evicted);
  cache.set_fills(report.fills);
}

void fill(const HistogramSums& sums, admin::Latency& latency) {
  latency.set_count(count(sums));
  latency.set_p50_us(percentile_us(sums, 0.50));
  latency.set_p99_us(percentile_us(sums, 0.99));
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = character_length(text);
    if (length == 0) {
      out += '?';
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

admin::Stats to_message(Snapshot& snapshot) {
  admin::Stats stats;
  stats.set_version(BOOSTER_VERSION);
  stats.set_pid(static_cast<uint32_t>(::getpid()));
  stats.set_uptime_seconds(snapshot.uptime_seconds);

  PassedSums passed;
  for (size_t i = 0; i < common::kReasonCount; ++i) {
    passed.calls[i] = snapshot.totals->passed_calls[i].get();
    passed.bytes[i] = snapshot.totals->passed_bytes[i].get();
  }
  uint64_t cached_calls = snapshot.totals->cached_calls.get();
  uint64_t cached_bytes = snapshot.totals->cached_bytes.get();
  std::sort(snapshot.sessions.begin(), snapshot.sessions.end(),
            [](const SessionReport& a, const SessionReport& b) { return a.id < b.id; });
  for (const SessionReport& session : snapshot.sessions) {
    fill(session, *stats.add_sessions());
    cached_calls += session.cached_calls;
    cached_bytes += session.cached_bytes;
    for (size_t i = 0; i < common::kReasonCount; ++i) {
      passed.calls[i] += session.passed.calls[i];
      passed.bytes[i] += session.passed.bytes[i];
    }
  }
  fill_passed(passed, stats);

  for (const gluster::MountReport& mount : snapshot.mounts) {
    uint64_t handles = 0;
    for (const SessionReport& session : snapshot.sessions) {
      handles += static_cast<uint64_t>(
          std::count_if(session.engaged.begin(), session.engaged.end(),
                        [&](const EngagedReport& file) { return file.dev == mount.place.dev; }));
    }
    fill(mount, handles, *stats.add_mounts());
  }
  fill_totals(*snapshot.totals, snapshot.pumps, *stats.mutable_totals());
  stats.mutable_totals()->set_cached_calls(cached_calls);
  stats.mutable_totals()->set_cached_bytes(cached_bytes);
  fill(snapshot.cache, *stats.mutable_cache());
  stats.set_quarantine_ms(snapshot.quarantine_ms);

  HistogramSums reads{};
  HistogramSums writes{};
  for (const PumpStats* pump : snapshot.pumps) {
    pump->reads.add_to(reads);
    pump->writes.add_to(writes);
    // relaxed: a gauge.
    stats.set_held_answers(stats.held_answers() +
                           pump->held_answers.load(std::memory_order_relaxed));
  }
  fill(reads, *stats.mutable_read_latency());
  fill(writes, *stats.mutable_write_latency());

  const ProcessCost cost = process_cost();
  admin::Process& process = *stats.mutable_process();
  process.set_threads(cost.threads);
  process.set_resident_bytes(cost.resident_bytes);
  process.set_cpu_seconds(cost.cpu_seconds);
  process.set_descriptors(cost.descriptors);
  return stats;
}

}  // namespace booster::daemon::stats
