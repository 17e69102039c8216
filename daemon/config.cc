// The table of configuration keys, and reading a TOML file by it. Nothing here knows what a key is
// used for.
#include "daemon/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <string_view>
#include <variant>

#include "common/abi.h"

namespace booster::daemon {
namespace {

struct NumberKey {
  int64_t Config::*member;
  int64_t initial;
  int64_t min;
  int64_t max;
};

struct TextKey {
  std::string Config::*member;
  const char* initial;
  std::vector<const char*> choices;  // empty: any text
};

struct Key {
  const char* section;
  const char* name;
  const char* unit;  // for numbers
  bool live;         // SIGHUP applies it
  const char* text;
  std::variant<NumberKey, TextKey> value;

  std::string full_name() const { return std::string(section) + "." + name; }
};

constexpr int64_t kMax32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMax63 = std::numeric_limits<int64_t>::max();

const std::vector<Key>& keys() {
  static const std::vector<Key> table = {
      {"daemon", "control_socket", "", false,
       "Where preloaded programs connect. Not used when systemd passes the socket.",
       TextKey{&Config::control_socket, common::kControlSocket, {}}},
      {"daemon", "admin_socket", "", false,
       "Where boosterctl connects. Not used when systemd passes the socket.",
       TextKey{&Config::admin_socket, common::kAdminSocket, {}}},
      {"daemon", "admin_group", "", false,
       "Besides root, members of this group may use boosterctl, if the group exists.",
       TextKey{&Config::admin_group, "booster", {}}},
      {"daemon", "drain_ms", "milliseconds", false,
       "How long requests in flight may still finish when the daemon is told to stop. Programs do\n"
       "again through FUSE what was not answered.",
       NumberKey{&Config::drain_ms, 2000, 0, 10'000}},
      {"log", "level", "", true, "What boosterd logs to standard error (the journal).",
       TextKey{&Config::log_level, "info", {"error", "warning", "info", "debug"}}},
      {"log", "gluster_dir", "", false,
       "Where libgfapi logs, one file for each volume. Made if it is missing.",
       TextKey{&Config::gluster_log_dir, "/var/log/booster", {}}},
      {"log", "gluster_level", "", false, "What libgfapi logs.",
       TextKey{&Config::gluster_log_level, "warning", {"error", "warning", "info", "debug"}}},
      {"limits", "sessions", "sessions", true,
       "Preloaded programs that are connected at the same time. Others use FUSE.",
       NumberKey{&Config::sessions, 4096, 1, 1'000'000}},
      {"limits", "sessions_per_uid", "sessions", true,
       "The same for each user. Root is not limited.",
       NumberKey{&Config::sessions_per_uid, 1024, 1, 1'000'000}},
      {"limits", "session_memory_bytes", "bytes", true,
       "Address space of the shared memory of all sessions, 24.7 MiB each. It is virtual: pages\n"
       "are taken when a lane or log first carries so much, so a program of few small calls holds\n"
       "some KiB, and only 8 threads that read 1 MiB at a time and write on four mounts hold all\n"
       "of it. The default is above what the limit of sessions allows; lower it where untrusted\n"
       "users could fill the memory of the host.",
       NumberKey{&Config::session_memory_bytes, int64_t{128} << 30, int64_t{32} << 20, kMax63}},
      {"limits", "handles", "handles", true,
       "Engaged files of all sessions together; each costs an open file on the bricks.",
       NumberKey{&Config::handles, 65'536, 1, kMax32}},
      {"limits", "pending_engages", "requests", true,
       "Files of one session that are being engaged at the same time.",
       NumberKey{&Config::pending_engages, 64, 1, 4096}},
      {"context", "idle_seconds", "seconds", true,
       "A mount's libgfapi context is closed when no file of it was engaged for so long.",
       NumberKey{&Config::idle_seconds, 300, 1, kMax32}},
      {"context", "build_timeout_seconds", "seconds", true,
       "How long files wait for a context that is being built; then they stay on FUSE.",
       NumberKey{&Config::build_timeout_seconds, 30, 1, 3600}},
      {"context", "retry_seconds", "seconds", true,
       "A context that could not be built is not tried again for so long.",
       NumberKey{&Config::retry_seconds, 5, 0, 3600}},
      {"data", "pumps", "threads", false,
       "Threads that carry requests. 0: a quarter of the processors, at least 1 and at most 4.",
       NumberKey{&Config::pumps, 0, 0, 64}},
      {"data", "spin_us", "microseconds", false,
       "How long a pump looks for the next request before it sleeps, where it has seen that this\n"
       "pays. 0: never.",
       NumberKey{&Config::spin_us, 50, 0, 10'000}},
      {"data", "write_log", "", false,
       "on: a write to a file that nobody else on the host has open returns when it is in shared\n"
       "memory, and reaches the bricks a little later, whatever becomes of program and daemon.\n"
       "off: writes are FUSE's.",
       TextKey{&Config::write_log, "on", {"on", "off"}}},
      {"cache", "bytes", "bytes", false,
       "Memory for what programs read again or will read next, shared by all of them; less while\n"
       "the host has little left: an eighth stays free. -1: half of the host's. 0: none.",
       NumberKey{&Config::cache_bytes, -1, -1, int64_t{1} << 44}},
      {"cache", "retain_bytes", "bytes", false,
       "What has been read stays until so much more has come from the bricks, and new files are\n"
       "FUSE's while there is no room: the kernel would have kept it as long. -1: what the host "
       "has\n"
       "besides programs, as the kernel would. 0: what was read the longest ago goes as soon as\n"
       "there is no room, which suits hosts that read more than they have memory, once.",
       NumberKey{&Config::cache_retain_bytes, -1, -1, int64_t{1} << 44}},
      {"failure", "quarantine_min_ms", "milliseconds", false,
       "After a death of the daemon, writes that were in flight wait at least so long before they\n"
       "are done again through FUSE, since they may still be queued at a brick.",
       NumberKey{&Config::quarantine_min_ms, 5000, 100, 600'000}},
  };
  return table;
}

std::string allowed(const Key& key) {
  if (const auto* number = std::get_if<NumberKey>(&key.value)) {
    return fmt::format("a whole number of {} from {} to {}", key.unit, number->min, number->max);
  }
  const auto& choices = std::get<TextKey>(key.value).choices;
  if (choices.empty()) return "a non-empty text in quotes";
  return fmt::format("one of \"{}\"", fmt::join(choices, "\", \""));
}

bool assign(Config& config, const Key& key, int64_t value) {
  const auto* number = std::get_if<NumberKey>(&key.value);
  if (!number || value < number->min || value > number->max) return false;
  config.*number->member = value;
  return true;
}

bool assign(Config& config, const Key& key, const std::string& value) {
  const auto* text = std::get_if<TextKey>(&key.value);
  if (!text || value.empty()) return false;
  const auto& choices = text->choices;
  if (!choices.empty() && std::none_of(choices.begin(), choices.end(),
                                       [&](std::string_view choice) { return choice == value; })) {
    return false;
  }
  config.*text->member = value;
  return true;
}

const Key* find_key(std::string_view section, std::string_view name) {
  for (const Key& key : keys()) {
    if (section == key.section && name == key.name) return &key;
  }
  return nullptr;
}

Failure<std::string> bad_value(const std::string& where, const Key& key) {
  return Failure{fmt::format("{}: {} must be {}", where, key.full_name(), allowed(key))};
}

/// The spelling nearest to what a person meant is worth a word; here: the keys of that section.
std::string known_names(std::string_view section) {
  std::vector<std::string> names;
  for (const Key& key : keys()) {
    if (section == key.section) names.emplace_back(key.name);
  }
  if (!names.empty()) return fmt::format("[{}] has: {}", section, fmt::join(names, ", "));
  std::set<std::string> sections;
  for (const Key& key : keys()) sections.insert(key.section);
  return fmt::format("the tables are: {}", fmt::join(sections, ", "));
}

}  // namespace

Config default_config() {
  Config config;
  for (const Key& key : keys()) {
    if (const auto* number = std::get_if<NumberKey>(&key.value)) {
      config.*number->member = number->initial;
    } else {
      const auto& text = std::get<TextKey>(key.value);
      config.*text.member = text.initial;
    }
  }
  return config;
}

Outcome<Config> load_config(const std::string& path, bool must_exist) {
  Config config = default_config();
  std::error_code error;
  if (!must_exist && !std::filesystem::exists(path, error) && !error) return config;

  toml::table file;
  try {
    file = toml::parse_file(path);
  } catch (const toml::parse_error& e) {
    // A file that cannot be opened is reported this way, too.
    if (e.source().begin.line == 0) {
      return Failure{fmt::format("{}: cannot be read: {}", path, e.description())};
    }
    return Failure{fmt::format("{}:{}: {}", path, e.source().begin.line, e.description())};
  }
  for (const auto& [section, content] : file) {
    const toml::table* table = content.as_table();
    const std::string where = fmt::format("{}:{}", path, content.source().begin.line);
    if (!table) {
      return Failure{fmt::format("{}: unknown key '{}'; {}", where, section.str(),
                                 known_names(section.str()))};
    }
    for (const auto& [name, value] : *table) {
      const std::string line = fmt::format("{}:{}", path, value.source().begin.line);
      const Key* key = find_key(section.str(), name.str());
      if (!key) {
        return Failure{fmt::format("{}: unknown key '{}.{}'; {}", line, section.str(), name.str(),
                                   known_names(section.str()))};
      }
      bool good = false;
      if (const auto* number = value.as_integer()) good = assign(config, *key, number->get());
      if (const auto* text = value.as_string()) good = assign(config, *key, text->get());
      if (!good) return bad_value(line, *key);
    }
    if (table->empty() && known_names(section.str()).front() != '[') {
      return Failure{fmt::format("{}: unknown table [{}]; {}", where, section.str(),
                                 known_names(section.str()))};
    }
  }
  return config;
}

Outcome<bool> set_config_text(Config& config, const std::string& name, const std::string& value) {
  for (const Key& key : keys()) {
    if (key.full_name() != name) continue;
    if (!assign(config, key, value)) return bad_value("command line", key);
    return true;
  }
  return Failure{fmt::format("command line: unknown key '{}'", name)};
}

std::string default_config_text() {
  std::string out =
      "# boosterd's configuration. Every key is shown with its default; a missing key has it.\n"
      "# `boosterd --check-config` tells whether a file is good. `systemctl reload boosterd`\n"
      "# applies the keys marked (live); others need a restart, which programs survive.\n";
  std::string_view section;
  for (const Key& key : keys()) {
    if (section != key.section) {
      section = key.section;
      out += fmt::format("\n[{}]\n", section);
    }
    std::string_view text = key.text;
    out += '\n';
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      out += fmt::format("# {}\n", text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    out += fmt::format("# {}{}\n", allowed(key), key.live ? " (live)" : "");
    if (const auto* number = std::get_if<NumberKey>(&key.value)) {
      out += fmt::format("#{} = {}\n", key.name, number->initial);
    } else {
      out += fmt::format("#{} = \"{}\"\n", key.name, std::get<TextKey>(key.value).initial);
    }
  }
  return out;
}

std::vector<std::string> changes_needing_restart(const Config& before, const Config& after) {
  std::vector<std::string> changed;
  for (const Key& key : keys()) {
    if (key.live) continue;
    const bool same = std::visit(
        [&](const auto& value) { return before.*value.member == after.*value.member; }, key.value);
    if (!same) changed.push_back(key.full_name());
  }
  return changed;
}

}  // namespace booster::daemon
