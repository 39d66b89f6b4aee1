// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// Templated on the word: a uint32_t (one CUDA thread, one scalar) or a vector of them (one CPU lane each), for which
// `multiply_wide(word, uint32_t, high&, low&)` and ^ with a word or a uint32_t exist.
#pragma once

#include <cstdint>

#include "namespace.h"

MMK_NAMESPACE_BEGIN

MMK_HOST_DEVICE inline void multiply_wide(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}

template <class Word>
struct PhiloxBlock {
  Word word[4];
};

/// Ten rounds over the counter; the key is 64 bits, shared by all lanes.
template <class Word>
MMK_HOST_DEVICE inline PhiloxBlock<Word> philox4x32(PhiloxBlock<Word> counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    Word high0, low0, high1, low1;
    multiply_wide(counter.word[0], 0xD2511F53u, high0, low0);
    multiply_wide(counter.word[2], 0xCD9E8D57u, high1, low1);
    counter = {{high1 ^ counter.word[1] ^ key0, low1, high0 ^ counter.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

MMK_NAMESPACE_END
