// The command line of a mount's glusterfs process, as .meta/cmdline shows it.
#include <gtest/gtest.h>

#include <string>

#include "daemon/gluster/cmdline.h"
#include "daemon/gluster/context.h"

namespace booster::daemon::gluster {
namespace {

MountOptions parse(const std::string& arguments) {
  return parse_meta_cmdline("{ \n  \"Cmdlinestr\": \"/usr/sbin/glusterfs " + arguments + "\"\n}");
}

TEST(MetaCmdline, WhatMountGlusterfsStarts) {
  const MountOptions options =
      parse("--process-name fuse --volfile-server=10.0.0.1 --volfile-id=/vol1 /mnt/vol1");
  ASSERT_EQ(options.servers.size(), 1U);
  EXPECT_EQ(options.servers[0].host, "10.0.0.1");
  EXPECT_EQ(options.servers[0].transport, "tcp");
  EXPECT_EQ(options.servers[0].port, 0);
  EXPECT_EQ(options.volfile_id, "vol1");
  EXPECT_TRUE(options.volfile.empty());
  EXPECT_FALSE(options.writeback_cache);
  EXPECT_FALSE(options.capability);
  EXPECT_TRUE(parse("--capability --volfile-id=v /mnt").capability);
  EXPECT_FALSE(options.read_only);
}

TEST(MetaCmdline, SeveralServersWithPortAndTransport) {
  const MountOptions options = parse(
      "--volfile-server=a --volfile-server b,c:24010 -s d --volfile-server-port=24008 "
      "--volfile-server-transport=tcp --volfile-id=vol.tcp --subdir-mount=/dir /mnt");
  ASSERT_EQ(options.servers.size(), 5U - 1U);
  EXPECT_EQ(options.servers[0].host, "a");
  EXPECT_EQ(options.servers[0].port, 24008);
  EXPECT_EQ(options.servers[1].host, "b");
  EXPECT_EQ(options.servers[2].host, "c");
  EXPECT_EQ(options.servers[2].port, 24010);
  EXPECT_EQ(options.servers[3].host, "d");
  EXPECT_TRUE(parse("--volfile-server=:24007,[],[]:1 --volfile-id=v").servers.empty());
  EXPECT_EQ(options.volfile_id, "vol.tcp");
  EXPECT_EQ(options.subdir, "/dir");
}

TEST(MetaCmdline, Ipv6UnixAndRdma) {
  EXPECT_EQ(parse("--volfile-server=fe80::1 --volfile-id=v").servers[0].host, "fe80::1");
  const auto bracketed = parse("--volfile-server=[fe80::1]:24010").servers[0];
  EXPECT_EQ(bracketed.host, "fe80::1");
  EXPECT_EQ(bracketed.port, 24010);
  const auto path = parse("--volfile-server=/run/g.sock --volfile-server-transport=unix");
  EXPECT_EQ(path.servers[0].transport, "unix");
  EXPECT_EQ(path.servers[0].host, "/run/g.sock");
  EXPECT_EQ(parse("--volfile-server=a --volfile-server-transport=rdma").servers[0].transport,
            "tcp");
}

TEST(MetaCmdline, MountedFromAFile) {
  EXPECT_EQ(parse("--volfile=/etc/v.vol /mnt").volfile, "/etc/v.vol");
  EXPECT_EQ(parse("-f /etc/v.vol /mnt").volfile, "/etc/v.vol");
  EXPECT_EQ(parse("-f/etc/v.vol /mnt").volfile, "/etc/v.vol");
}

TEST(MetaCmdline, WritebackCacheInEverySpelling) {
  for (const char* on :
       {"--kernel-writeback-cache", "--kernel-writeback-cache=yes", "--kernel-writeback-cache=on",
        "--kernel-writeback-cache=1", "--kernel-writeback-cache=TRUE",
        "--kernel-writeback-cache=what", "--kernel-write", "--kernel-write=on"}) {
    EXPECT_TRUE(parse(std::string("--volfile-id=v ") + on + " /mnt").writeback_cache) << on;
  }
  for (const char* off : {"", "--kernel-writeback-cache=no", "--kernel-writeback-cache=Off",
                          "--kernel-writeback-cache=0", "--kernel-writeback-cache=disable"}) {
    EXPECT_FALSE(parse(std::string("--volfile-id=v ") + off + " /mnt").writeback_cache) << off;
  }
}

TEST(MetaCmdline, ReadOnlyClients) {
  EXPECT_TRUE(parse("--read-only --volfile-id=v /mnt").read_only);
  EXPECT_TRUE(parse("--worm --volfile-id=v /mnt").read_only);
}

TEST(MetaCmdline, MountsWhoseProgramsWantNoCopies) {
  for (const char* no : {"--direct-io-mode", "--direct-io-mode=enable", "--direct-io-mode=yes",
                         "--attribute-timeout=0", "--attribute-timeout=0.5",
                         "--attribute-timeout 0", "--attri=what", "--di=on"}) {
    EXPECT_TRUE(parse(std::string(no) + " --volfile-id=v /mnt").wants_no_copies) << no;
  }
  for (const char* copies : {"", "--direct-io-mode=disable", "--direct-io-mode=auto",
                             "--attribute-timeout=1", "--attribute-timeout=600"}) {
    EXPECT_FALSE(parse(std::string(copies) + " --volfile-id=v /mnt").wants_no_copies) << copies;
  }
}

TEST(MetaCmdline, GarbageIsNoCrash) {
  for (const char* text : {"", "{", "\"Cmdlinestr\": \"", "{ \"Cmdlinestr\": \"x -s", "-s", "--",
                           "--volfile-server", "--volfile-server=[", "--volfile-server=:"}) {
    parse_meta_cmdline(text);
    parse(text);
  }
}

TEST(Volfile, TranslatorsAreFoundByTheirWholeType) {
  const std::string volfile = "volume a\n    type cluster/disperse\nend-volume\n";
  EXPECT_TRUE(has_translator(volfile, "cluster/disperse"));
  EXPECT_FALSE(has_translator(volfile, "cluster/disp"));
  EXPECT_FALSE(has_translator("volume cluster/disperse\n", "cluster/disperse"));
}

TEST(Volfile, DisperseVolumesWriteWholeStripes) {
  const auto set = [](const std::string& name, const std::string& options,
                      const std::string& bricks) {
    return "volume " + name + "\n    type cluster/disperse\n" + options + "    subvolumes" +
           bricks + "\nend-volume\n\n";
  };
  EXPECT_EQ(write_unit(""), 1U);
  EXPECT_EQ(write_unit("volume r\n    type cluster/replicate\n    subvolumes a b c\nend-volume\n"),
            1U);
  const std::string one = set("v-disperse-0", "    option redundancy 1\n", " a b c");
  EXPECT_EQ(write_unit(one), 1024U);
  EXPECT_EQ(write_unit(one + set("v-disperse-1", "    option redundancy 1\n", " d e f")), 1024U);
  EXPECT_EQ(
      write_unit(set("v", "    option eager-lock on\n    option redundancy 2\n", " a b c d e f")),
      2048U);
  EXPECT_EQ(write_unit(one + set("w", "    option redundancy 2\n", " a b c d e")), 3072U);
  // What comes before or after such a set is none.
  EXPECT_EQ(
      write_unit(one +
                 "volume d\n    type cluster/distribute\n    subvolumes v w x y\nend-volume\n"),
      1024U);
  EXPECT_EQ(write_unit(set("v", "    option redundancy 3\n", " a b c")), 1U);
}

TEST(Volfile, MetaIsLeftOutAndNothingElse) {
  const std::string io = "volume v\n    type debug/io-stats\n    subvolumes u\nend-volume\n\n";
  const std::string meta = "volume meta-autoload\n    type meta\n    subvolumes v\nend-volume\n";
  EXPECT_EQ(without_meta(io + meta), io);
  EXPECT_EQ(without_meta(io), io);
  EXPECT_EQ(without_meta(""), "");
  EXPECT_EQ(without_meta("torn"), "torn");
}

}  // namespace
}  // namespace booster::daemon::gluster
