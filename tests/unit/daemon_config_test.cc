// The configuration file: what is accepted, and what a person is told about what is not.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "daemon/config.h"

namespace booster::daemon {
namespace {

class ConfigFile : public ::testing::Test {
 protected:
  Outcome<Config> load(const std::string& text) {
    std::ofstream(path_) << text;
    return load_config(path_, true);
  }
  std::string error_of(const std::string& text) {
    const auto config = load(text);
    return config.ok() ? "accepted" : config.error();
  }
  ~ConfigFile() override { std::remove(path_.c_str()); }

  const std::string path_ =
      ::testing::TempDir() + "boosterd-" + std::to_string(::getpid()) + ".toml";
};

TEST_F(ConfigFile, MissingDefaultFileMeansDefaults) {
  const auto config = load_config("/nonexistent/boosterd.toml", false);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->sessions, default_config().sessions);
}

TEST_F(ConfigFile, MissingNamedFileIsAnError) {
  const auto config = load_config("/nonexistent/boosterd.toml", true);
  ASSERT_FALSE(config.ok());
  EXPECT_NE(config.error().find("/nonexistent/boosterd.toml"), std::string::npos);
}

TEST_F(ConfigFile, ThePrintedDefaultFileIsAcceptedAndChangesNothing) {
  const auto config = load(default_config_text());
  ASSERT_TRUE(config.ok()) << config.error();
  EXPECT_TRUE(changes_needing_restart(default_config(), *config).empty());
  EXPECT_EQ(config->spin_us, default_config().spin_us);
}

TEST_F(ConfigFile, ThePrintedDefaultFileWithoutCommentMarksIsAcceptedToo) {
  std::string text = default_config_text();
  std::string uncommented;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    if (line.size() > 1 && line[0] == '#' && line[1] != ' ') line.erase(0, 1);
    uncommented += line + "\n";
    at = end + 1;
  }
  ASSERT_NE(uncommented.find("\nspin_us = 50\n"), std::string::npos);
  const auto config = load(uncommented);
  ASSERT_TRUE(config.ok()) << config.error();
  EXPECT_TRUE(changes_needing_restart(default_config(), *config).empty());
}

TEST_F(ConfigFile, SetsValues) {
  const auto config = load("[data]\nspin_us = 0\n[log]\nlevel = \"debug\"\n");
  ASSERT_TRUE(config.ok()) << config.error();
  EXPECT_EQ(config->spin_us, 0);
  EXPECT_EQ(config->log_level, "debug");
}

TEST_F(ConfigFile, UnknownKeyIsNamedWithItsLineAndWhatThereIs) {
  const std::string error = error_of("[data]\nspin = 1\n");
  EXPECT_EQ(error, path_ + ":2: unknown key 'data.spin'; [data] has: pumps, spin_us, write_log");
}

TEST_F(ConfigFile, UnknownTableIsNamed) {
  EXPECT_NE(error_of("[dta]\nspin_us = 1\n").find("'dta.spin_us'"), std::string::npos);
  EXPECT_NE(error_of("[dta]\n").find("[dta]"), std::string::npos);
  EXPECT_NE(error_of("spin_us = 1\n").find("'spin_us'"), std::string::npos);
}

TEST_F(ConfigFile, OutOfRangeWrongTypeAndWrongWordNameTheRange) {
  const std::string range = path_ +
                            ":2: data.spin_us must be a whole number of microseconds "
                            "from 0 to 10000";
  EXPECT_EQ(error_of("[data]\nspin_us = 10001\n"), range);
  EXPECT_EQ(error_of("[data]\nspin_us = -1\n"), range);
  EXPECT_EQ(error_of("[data]\nspin_us = 1.5\n"), range);
  EXPECT_EQ(error_of("[data]\nspin_us = \"50\"\n"), range);
  EXPECT_EQ(error_of("[data]\nspin_us = true\n"), range);
  EXPECT_EQ(error_of("[log]\nlevel = \"loud\"\n"),
            path_ + ":2: log.level must be one of \"error\", \"warning\", \"info\", \"debug\"");
  EXPECT_NE(error_of("[daemon]\ncontrol_socket = \"\"\n"), "accepted");
}

TEST_F(ConfigFile, BrokenTomlIsOneLineWithItsPlace) {
  const std::string error = error_of("[data\n");
  EXPECT_EQ(error.find(path_ + ":1: "), 0U) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos);
}

TEST(ConfigChanges, OnlyKeysThatNeedARestartAreNamed) {
  const Config before = default_config();
  Config after = before;
  after.log_level = "debug";
  after.sessions = 7;
  after.pumps = 2;
  EXPECT_EQ(changes_needing_restart(before, after), std::vector<std::string>{"data.pumps"});
}

TEST(ConfigText, CommandLineValuesAreChecked) {
  Config config = default_config();
  EXPECT_TRUE(set_config_text(config, "log.level", "debug").ok());
  EXPECT_EQ(config.log_level, "debug");
  EXPECT_FALSE(set_config_text(config, "log.level", "loud").ok());
}

}  // namespace
}  // namespace booster::daemon
