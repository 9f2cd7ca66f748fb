// One thread block of a CUDA device, on a CPU: what the generated kernels use of it and no more.
//
// Every thread is a fibre.  A warp runs until all its lanes wait for the block, then the next warp runs, so a
// missing barrier shows as a wrong number; running the warps backwards shows the rest.  An asynchronous copy
// poisons its target when it starts and arrives when its thread waits for it, so a missing wait shows too.
// Shared memory begins poisoned.  Addresses are checked for alignment and bounds.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

typedef unsigned int uint;
typedef unsigned char uchar;
typedef _Float16 half;

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  explicit nv_bfloat16(float value) {  // to nearest, ties to even
    uint32_t word;
    memcpy(&word, &value, 4);
    bits = std::isnan(value) ? 0x7fff : static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  }
};

struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx;

template <class A, class B> static auto max(A a, B b) { return a > b ? a : b; }
template <class A, class B> static auto min(A a, B b) { return a < b ? a : b; }

namespace emulator {

constexpr int LANES = 32, MOST_THREADS = 1024, STACK = 1 << 16, POISON = 0xff;
constexpr uint32_t MOST_SHARED = 232448;
alignas(1024) static uchar shared[MOST_SHARED];

struct Copy { uint32_t target; const void* source; uint32_t size; };
struct Words { uint32_t word[12]; };
enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Thread {
  jmp_buf where;
  ucontext_t start;
  State state;
  Words words, result;
  std::vector<std::vector<Copy>> groups;  // copies in flight, the last group still open
};

static Thread threads[MOST_THREADS];
static jmp_buf scheduler;
static std::vector<char> stacks;
static int current, count;
static long bank_conflicts;
static std::string failure;
static std::function<void()> body;

[[noreturn]] static void fail(const std::string& message) {
  failure = message + " (thread " + std::to_string(current) + ", block " + std::to_string(blockIdx.x) + ")";
  longjmp(scheduler, 2);
}

static void yield(State state) {
  threads[current].state = state;
  if (!_setjmp(threads[current].where)) _longjmp(scheduler, 1);
}

static void sync_block() { yield(AT_BLOCK); }

// All lanes hand in words; the last one to arrive computes what each gets back.
static Words sync_warp(const Words& words, void (*together)(Thread* lanes)) {
  int first = current / LANES * LANES;
  Thread& own = threads[current];
  own.words = words;
  for (int lane = first; lane < first + LANES; ++lane)
    if (lane != current && threads[lane].state != AT_WARP) {
      yield(AT_WARP);
      return own.result;
    }
  together(threads + first);
  for (int lane = first; lane < first + LANES; ++lane) threads[lane].state = READY;
  return own.result;
}

static uchar* at(uint32_t address, uint32_t size, const char* what) {
  if (address % size) fail(std::string(what) + ": address " + std::to_string(address) + " is not aligned");
  if (address + size > MOST_SHARED) fail(std::string(what) + ": address " + std::to_string(address) + " is outside");
  return shared + address;
}

// ---------------------------------------------------------------- mma.sync.m16n8k16, row · column

template <class Number> static float element(uint32_t word, int high) {
  uint16_t bits = static_cast<uint16_t>(high ? word >> 16 : word);
  Number number;
  memcpy(&number, &bits, 2);
  return static_cast<float>(number);
}

template <class Number> static void multiply(Thread* lanes) {
  float a[16][16], b[8][16], c[16][8];
  for (int lane = 0; lane < LANES; ++lane) {
    const uint32_t* word = lanes[lane].words.word;
    int group = lane / 4, pair = lane % 4 * 2;
    for (int high = 0; high < 2; ++high) {
      for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][pair + i / 2 * 8 + high] = element<Number>(word[i], high);
      for (int i = 0; i < 2; ++i) b[group][pair + i * 8 + high] = element<Number>(word[4 + i], high);
    }
    for (int i = 0; i < 4; ++i) memcpy(&c[group + i / 2 * 8][pair + i % 2], word + 6 + i, 4);
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column)
      for (int k = 0; k < 16; ++k) c[row][column] += a[row][k] * b[column][k];
  for (int lane = 0; lane < LANES; ++lane)
    for (int i = 0; i < 4; ++i)
      memcpy(lanes[lane].result.word + i, &c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

template <class Number>
static void mma(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
  Words words{{a0, a1, a2, a3, b0, b1}};
  float c[4] = {c0, c1, c2, c3};
  memcpy(words.word + 6, c, 16);
  Words result = sync_warp(words, multiply<Number>);
  float* d[4] = {&d0, &d1, &d2, &d3};
  for (int i = 0; i < 4; ++i) memcpy(d[i], result.word + i, 4);
}

// ---------------------------------------------------------------- ldmatrix.x4

template <bool TRANSPOSED> static void load(Thread* lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    int hits[8] = {};
    for (int row = 0; row < 8; ++row) ++hits[lanes[matrix * 8 + row].words.word[0] / 16 % 8];
    for (int bank = 0; bank < 8; ++bank) bank_conflicts += hits[bank] > 1 ? hits[bank] - 1 : 0;
    for (int lane = 0; lane < LANES; ++lane) {
      uint16_t pair[2];
      for (int high = 0; high < 2; ++high) {
        int row = TRANSPOSED ? lane % 4 * 2 + high : lane / 4;
        int column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + high;
        memcpy(&pair[high], shared + lanes[matrix * 8 + row].words.word[0] + 2 * column, 2);
      }
      memcpy(lanes[lane].result.word + matrix, pair, 4);
    }
  }
}

template <bool TRANSPOSED>
static void ldmatrix(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t address) {
  at(address, 16, "ldmatrix");
  Words result = sync_warp(Words{{address}}, load<TRANSPOSED>);
  r0 = result.word[0], r1 = result.word[1], r2 = result.word[2], r3 = result.word[3];
}

// ---------------------------------------------------------------- redux.sync.max.u32

static void largest_of(Thread* lanes) {
  uint32_t largest = 0;
  for (int lane = 0; lane < LANES; ++lane) largest = max(largest, lanes[lane].words.word[0]);
  for (int lane = 0; lane < LANES; ++lane) lanes[lane].result.word[0] = largest;
}

static void largest(uint32_t& result, uint32_t own, uint32_t lanes) {
  if (lanes != 0xffffffff) fail("redux.sync: not all lanes");
  result = sync_warp(Words{{own}}, largest_of).word[0];
}

// ---------------------------------------------------------------- copies, conversions, stores

static void copy_async(uint32_t target, const void* source, uint32_t size) {
  uchar* place = at(target, 16, "cp.async");
  if (reinterpret_cast<uintptr_t>(source) % 16) fail("cp.async: the source is not aligned");
  memset(place, POISON, 16);
  threads[current].groups.back().push_back({target, source, size});
}

static void commit_group() { threads[current].groups.emplace_back(); }

static void wait_group(size_t pending) {
  auto& groups = threads[current].groups;
  while (groups.size() > pending + 1) {
    for (const Copy& copy : groups.front()) {
      memset(shared + copy.target, 0, 16);
      memcpy(shared + copy.target, copy.source, copy.size);
    }
    groups.erase(groups.begin());
  }
}

template <class Number> static void round_pair(uint32_t& word, float high, float low) {
  Number pair[2] = {static_cast<Number>(low), static_cast<Number>(high)};
  memcpy(&word, pair, 4);
}

template <class Value> static void store_global(const void* address, Value value) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Value)) fail("st.global: the address is not aligned");
  memcpy(const_cast<void*>(address), &value, sizeof value);
}

static void store_shared(uint32_t address, uint32_t value) { memcpy(at(address, 4, "st.shared"), &value, 4); }

static uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const uchar*>(pointer) - shared);
}

// ---------------------------------------------------------------- the block

static void enter() {
  body();
  yield(DONE);
}

static void resume(int thread) {
  current = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  threads[thread].state = READY;
  int reason = _setjmp(scheduler);
  if (reason == 2) throw std::runtime_error(failure);
  if (!reason) _longjmp(threads[thread].where, 1);
}

static void prepare(int thread) {
  Thread& own = threads[thread];
  own.groups.assign(1, {});
  own.state = READY;
  if (_setjmp(scheduler)) return;
  getcontext(&own.start);
  own.start.uc_stack.ss_sp = &stacks[static_cast<size_t>(thread) * STACK];
  own.start.uc_stack.ss_size = STACK;
  own.start.uc_link = nullptr;
  makecontext(&own.start, [] {
    if (!_setjmp(threads[current].where)) _longjmp(scheduler, 1);
    enter();
  }, 0);
  current = thread;
  setcontext(&own.start);
}

// Runs every lane of a warp until all of them wait for the block or are done.
static void run_warp(int first) {
  for (bool progress = true; progress;) {
    progress = false;
    for (int lane = first; lane < first + LANES; ++lane)
      if (threads[lane].state == READY) {
        resume(lane);
        progress = true;
      }
  }
  for (int lane = first; lane < first + LANES; ++lane)
    if (threads[lane].state == AT_WARP) throw std::runtime_error("lanes of a warp do not meet at an instruction");
}

static void run_block(bool backwards) {
  memset(shared, POISON, sizeof shared);
  for (int thread = 0; thread < count; ++thread) prepare(thread);
  for (int waiting = count; waiting;) {
    for (int warp = 0; warp < count / LANES; ++warp)
      run_warp((backwards ? count / LANES - 1 - warp : warp) * LANES);
    waiting = 0;
    for (int thread = 0; thread < count; ++thread) waiting += threads[thread].state == AT_BLOCK;
    if (waiting && waiting < count) throw std::runtime_error("some threads ended while others wait for them");
    for (int thread = 0; thread < count && waiting; ++thread) threads[thread].state = READY;
  }
}

static void launch(Dim grid, int block, bool backwards, std::function<void()> kernel) {
  body = std::move(kernel);
  count = block;
  stacks.resize(static_cast<size_t>(block) * STACK);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(backwards);
      }
}

}  // namespace emulator
