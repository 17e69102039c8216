// What preloading costs by itself: bench/run starts programs with this library, and with
// libbooster.so.
extern "C" int bench_empty() {
  return 0;
}
