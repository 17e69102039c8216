// Parses glusterfs's command line as glusterfsd.c's argp table does, as far as booster cares.
#include "daemon/gluster/cmdline.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace booster::daemon::gluster {
namespace {

std::vector<std::string_view> words_of(std::string_view text) {
  constexpr std::string_view kStart = "\"Cmdlinestr\": \"";
  const size_t start = text.find(kStart);
  if (start != std::string_view::npos) {
    text.remove_prefix(start + kStart.size());
    text = text.substr(0, std::min(text.rfind('"'), text.size()));
  }
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" \n\t"), text.size());
    if (end > 0) words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

/// One option with its value, if the next word is `--name=value`, `--name value`, or `-c value`.
class Options {
 public:
  explicit Options(std::vector<std::string_view> words) : words_(std::move(words)) {}

  bool next() {
    if (at_ >= words_.size()) return false;
    word_ = words_[at_++];
    return true;
  }

  /// True if the current word is this option, in full; argp takes unambiguous beginnings, too, of
  /// which `shortest` is the shortest.
  bool is(std::string_view name, size_t shortest = 0) const {
    if (word_.substr(0, 2) != "--") return false;
    const std::string_view given = word_.substr(2, word_.find('=') - 2);
    return given == name ||
           (shortest != 0 && given.size() >= shortest && given == name.substr(0, given.size()));
  }
  bool is(char letter) const { return word_.size() >= 2 && word_[0] == '-' && word_[1] == letter; }

  /// The option's mandatory value: after '=', or the next word.
  std::string value() {
    if (word_.substr(0, 2) == "--") {
      const size_t equals = word_.find('=');
      if (equals != std::string_view::npos) return std::string(word_.substr(equals + 1));
    } else if (word_.size() > 2) {
      return std::string(word_.substr(2));
    }
    std::string_view next_word;
    if (at_ < words_.size()) next_word = words_[at_++];
    return std::string(next_word);
  }

  /// The option's optional value, which only '=' brings.
  std::optional<std::string> optional_value() const {
    const size_t equals = word_.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    return std::string(word_.substr(equals + 1));
  }

 private:
  std::vector<std::string_view> words_;
  std::string_view word_;
  size_t at_ = 0;
};

/// gf_string2boolean knows these; whatever else is given counts as "on", which refuses more.
bool is_off(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return value == "0" || value == "off" || value == "no" || value == "false" || value == "disable";
}

int to_port(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port < 1 || port > 65535)
    return 0;
  return port;
}

/// As gf_string2double: what cannot be read is 0.
double to_seconds(std::string_view text) {
  double seconds = 0;
  std::from_chars(text.data(), text.data() + text.size(), seconds);
  return seconds;
}

/// `host`, `host:port`, `[v6]:port`, or several of them with commas.
void add_servers(std::string_view list, std::vector<VolfileServer>& servers) {
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    std::string_view item = list.substr(0, end);
    list.remove_prefix(std::min(end + 1, list.size()));
    if (item.empty()) continue;
    VolfileServer server;
    const size_t bracket = item.front() == '[' ? item.find(']') : std::string_view::npos;
    if (bracket != std::string_view::npos) {
      if (item.substr(bracket + 1, 1) == ":") server.port = to_port(item.substr(bracket + 2));
      item = item.substr(1, bracket - 1);
    } else if (std::count(item.begin(), item.end(), ':') == 1 && item.front() != '/') {
      server.port = to_port(item.substr(item.find(':') + 1));
      item = item.substr(0, item.find(':'));
    }
    if (item.empty()) continue;  // ":24007", "[]"
    server.host = std::string(item);
    servers.push_back(std::move(server));
  }
}

}  // namespace

MountOptions parse_meta_cmdline(std::string_view text) {
  MountOptions options;
  std::string transport;
  int port = 0;
  Options words(words_of(text));
  words.next();  // the program
  while (words.next()) {
    if (words.is("volfile-server") || words.is('s')) {
      add_servers(words.value(), options.servers);
    } else if (words.is("volfile-id")) {
      options.volfile_id = words.value();
    } else if (words.is("volfile") || words.is("spec-file") || words.is('f')) {
      options.volfile = words.value();
    } else if (words.is("volfile-server-port")) {
      port = to_port(words.value());
    } else if (words.is("volfile-server-transport")) {
      transport = words.value();
    } else if (words.is("subdir-mount")) {
      options.subdir = words.value();
    } else if (words.is("kernel-writeback-cache", 1)) {
      options.writeback_cache = !is_off(words.optional_value().value_or("yes"));
    } else if (words.is("direct-io-mode", 2)) {
      const std::string mode = words.optional_value().value_or("on");
      options.wants_no_copies |= !is_off(mode) && mode != "auto";
    } else if (words.is("attribute-timeout", 5)) {
      options.wants_no_copies |= to_seconds(words.value()) < 1;
    } else if (words.is("read-only") || words.is("worm")) {
      options.read_only = true;
    } else if (words.is("capability")) {
      options.capability = true;
    }
  }
  while (!options.volfile_id.empty() && options.volfile_id.front() == '/') {
    options.volfile_id.erase(0, 1);
  }
  for (VolfileServer& server : options.servers) {
    if (server.port == 0) server.port = port;
    // The volfile never travels over RDMA, whatever the bricks speak.
    server.transport = transport == "unix" || server.host.starts_with('/') ? "unix" : "tcp";
  }
  return options;
}

}  // namespace booster::daemon::gluster
