// Sampling on CUDA devices (kernels/sampling.h has the rules): what the host stages, what the
// kernels take, and what comes back. Logits stay on the device.
//
// A step: the caller lays SampleParams out with StageSampleParams, copies that buffer to the device
// in one copy, launches, and copies one buffer of results back for ReadSampleResults. Which kernels
// a launch has, and their shapes, follow from `rows`, `vocabulary` and SampleWork alone: with the
// pointers fixed, a captured graph serves every step that has these in common.
//
// Sums of probabilities are sums of integers, exp(logit - largest) in steps of 2^-43, so no order
// of adding changes a bit: a row's results depend on that row alone. What is less likely than 2^-44
// of the most likely token is never drawn.
//
// Thread contract: pure functions; launches are ordered by their stream.
#ifndef STERNA_KERNELS_CUDA_SAMPLE_H_
#define STERNA_KERNELS_CUDA_SAMPLE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/runtime.h"
#include "kernels/sampling.h"

namespace sterna::cuda {

inline constexpr int32_t kMostTopLogprobs = 32;            // of SampleParams::num_logprobs
inline constexpr int32_t kMostVocabulary = 1 << 20;        // sums of weights stay below 2^64
inline constexpr int32_t kMostSampleRows = 65535;          // a grid's second dimension
inline constexpr size_t kSampleBufferAlignmentBytes = 16;  // of staging, workspace and results

// What any row of a step asks for: kernels for nothing else are launched.
struct SampleWork {
  bool bias = false;       // logit_bias
  bool penalties = false;  // token counts, and a penalty that is not off
  bool draws = false;      // a temperature
  bool cuts = false;       // top_k or top_p, and a temperature
  bool logprobs = false;
  bool operator==(const SampleWork&) const = default;
};

// The staging buffer: SampleRow [rows], then the entries of all rows, those of a row's bias and
// those of its counts each in one run.
//
//   | row 0 | row 1 | .. | bias of 0 | counts of 0 | bias of 1 | ..
//
// On the device entries are scratch: a row with logprobs leaves there what logits were before.
struct SampleEntry {
  int32_t token;
  uint32_t value;  // bias: the bits of the float; counts: times in the output
};

struct SampleRow {
  double exponent_scale;       // log2(e) / temperature; weights are 2^((logit - largest) * this)
  double min_p_depth;          // temperature * log(min_p): the least logit - largest that is kept
  uint64_t uniform;            // of (seed, position), in units of 2^-64
  uint32_t bias_offset_bytes;  // from the start of the buffer
  uint32_t bias_entries;
  uint32_t counts_offset_bytes;
  uint32_t counts_entries;
  float bucket_scale;  // kSampleBucketsPerNat / temperature
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  float top_p;           // 1: off
  int32_t top_k;         // 0: off
  int32_t num_logprobs;  // -1: none
  int32_t draws;         // 0: takes the largest
  int32_t drawn_row;     // the last count is of SampleArgs::drawn[drawn_row]; -1: of no such token
  int32_t target;        // the token, whatever the rest says; -1: none
};
static_assert(sizeof(SampleRow) == 80 && sizeof(SampleEntry) == 8, "read by the device");

// Top-p and top-k look at histograms of the logits below the largest first.
inline constexpr int32_t kSampleBuckets = 2048;
inline constexpr int32_t kSampleBucketsPerNat = 64;

// Bytes of the staging buffer of these rows.
size_t SampleStagingBytes(std::span<const SampleParams> params);

// Writes the staging buffer [SampleStagingBytes(params)]. No token may be twice in a row's
// logit_bias or in its counts; tokens are below `vocabulary`, num_logprobs at most
// kMostTopLogprobs, top_p and min_p in [0, 1] and temperatures not negative.
SampleWork StageSampleParams(std::span<const SampleParams> params, int32_t vocabulary,
                             std::span<uint8_t> staging);

// The results buffer: SampleToken [rows], then, where a row has logprobs, the most likely tokens
// [rows][kMostTopLogprobs] of which num_logprobs (or all of the vocabulary) are written.
struct SampleToken {
  int32_t token;
  float logprob;  // 0 in rows without logprobs
};
size_t SampleResultBytes(int64_t rows, bool logprobs);

// Reads a results buffer [SampleResultBytes] that the device wrote for these params.
void ReadSampleResults(std::span<const uint8_t> buffer, std::span<const SampleParams> params,
                       int32_t vocabulary, std::span<SampleResult> results);

// Bytes of device memory for what kernels leave one another; may hold anything before a launch.
size_t SampleWorkspaceBytes(int64_t rows);

struct SampleArgs {
  float* logits;         // [rows][vocabulary]; bias and penalties are applied in place
  const uint32_t* mask;  // [rows][ceil(vocabulary / 32)], bit t % 32 of word t / 32 set: token t
                         // may be chosen, else it counts as -infinity; or null: all may.
                         // Logprobs do not look at it
  uint8_t* staging;      // as StageSampleParams wrote it; its entries are overwritten
  uint8_t* workspace;    // [SampleWorkspaceBytes(rows)]
  uint8_t* results;      // [SampleResultBytes(rows, work.logprobs)]
  int32_t* drawn;        // [most rows]: read for the rows' drawn_row, then the tokens [rows] once
                         // more; null: nobody wants them
  int32_t rows;          // 1 .. kMostSampleRows
  int32_t vocabulary;    // 1 .. kMostVocabulary
  SampleWork work;       // at least what StageSampleParams returned; more changes no result
};

// cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchSample(const SampleArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_SAMPLE_H_
