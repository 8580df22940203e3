/* Eviction policies: which tokens to keep, from what kernels say about them. */
#include "attn/cache.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* ---- the highest of many ---- */

/* Scores, or votes that are pooled as they are looked at. */
struct ballot {
  const float *votes;
  size_t count;
  size_t kernel; /* odd; 1: as they are */
  attn_pooling pooling;
};

static float pooled(const struct ballot *ballot, size_t n)
{
  const size_t half = ballot->kernel / 2;
  const size_t first = n < half ? 0 : n - half;
  const size_t end = half < ballot->count - n ? n + half + 1 : ballot->count;
  if (ballot->pooling == ATTN_POOLING_MAX) {
    float most = ballot->votes[first];
    for (size_t m = first + 1; m < end; m++)
      most = fmaxf(most, ballot->votes[m]); /* of a number and a NaN the number */
    return most;
  }
  double sum = 0.0;
  for (size_t m = first; m < end; m++)
    sum += (double)ballot->votes[m];
  return (float)(sum / (double)ballot->kernel);
}

/* Unsigned numbers in the order of floats, with NaN below all. */
static uint32_t key_of(const struct ballot *ballot, size_t n)
{
  const float vote = pooled(ballot, n) + 0.0f; /* -0 is 0 */
  uint32_t bits;
  memcpy(&bits, &vote, sizeof(bits));
  if (isnan(vote))
    return 0;
  return bits >> 31 != 0 ? ~bits : bits | UINT32_C(1) << 31;
}

/* The `top` highest, of equal ones the first, in ascending order. Finds the lowest key among them
 * byte by byte, counting how many keys have each value of the next one. */
static size_t choose(const struct ballot *ballot, size_t top, int32_t *kept)
{
  uint32_t lowest = 0, known = 0;
  size_t left = top < ballot->count ? top : ballot->count; /* to be found among equals */
  for (unsigned shift = 32; shift > 0;) {
    size_t counts[256] = {0};
    uint32_t byte = 255;
    shift -= 8;
    for (size_t n = 0; n < ballot->count; n++) {
      const uint32_t key = key_of(ballot, n);
      counts[key >> shift & 255] += (key & known) == lowest;
    }
    while (counts[byte] < left)
      left -= counts[byte--];
    lowest |= byte << shift;
    known |= UINT32_C(255) << shift;
  }
  size_t count = 0;
  for (size_t n = 0; n < ballot->count; n++) {
    const uint32_t key = key_of(ballot, n);
    if (key > lowest || (key == lowest && left > 0)) {
      left -= key == lowest;
      kept[count++] = (int32_t)n;
    }
  }
  return count;
}

static size_t add_range(int32_t *kept, size_t count, size_t first, size_t end)
{
  for (size_t n = first; n < end; n++)
    kept[count++] = (int32_t)n;
  return count;
}

/* ---- scores ---- */

attn_status attn_scores_add(float *scores, size_t stride, size_t groups, const float *mass,
                            size_t heads, size_t length)
{
  if (scores == NULL || mass == NULL || groups == 0 || heads % groups != 0 || stride < length)
    return ATTN_ERROR_ARGUMENT;
  for (size_t head = 0; head < heads; head++) {
    float *row = &scores[head / (heads / groups) * stride];
    for (size_t n = 0; n < length; n++)
      row[n] += mass[head * length + n];
  }
  return ATTN_OK;
}

attn_status attn_scores_keep(float *scores, size_t length, const int32_t *ranks, size_t count)
{
  if (scores == NULL || (ranks == NULL && count != 0) || count > length)
    return ATTN_ERROR_ARGUMENT;
  for (size_t n = 0; n < count; n++) {
    if (ranks[n] < 0 || (size_t)ranks[n] >= length || (n > 0 && ranks[n] <= ranks[n - 1]))
      return ATTN_ERROR_ARGUMENT;
  }
  for (size_t n = 0; n < count; n++)
    scores[n] = scores[ranks[n]];
  memset(scores + count, 0, (length - count) * sizeof(*scores));
  return ATTN_OK;
}

/* ---- policies ---- */

static bool is_complete(const float *scores, size_t length, const int32_t *kept, size_t *count)
{
  if (count == NULL)
    return false;
  *count = 0;
  return length <= INT32_MAX && (length == 0 || (scores != NULL && kept != NULL));
}

attn_status attn_evict_streaming(size_t length, size_t sinks, size_t recent, size_t adding,
                                 int32_t *kept, size_t *count)
{
  const float none = 0.0f;
  if (!is_complete(&none, length, kept, count) || adding > recent)
    return ATTN_ERROR_ARGUMENT;
  const size_t stay = recent - adding;
  const bool fits = length < sinks || length - sinks <= stay;
  *count = add_range(kept, 0, 0, fits ? length : sinks);
  if (!fits)
    *count = add_range(kept, *count, length - stay, length);
  return ATTN_OK;
}

attn_status attn_evict_h2o(const float *scores, size_t length, size_t heavy, size_t recent,
                           int32_t *kept, size_t *count)
{
  if (!is_complete(scores, length, kept, count))
    return ATTN_ERROR_ARGUMENT;
  const size_t old = length < recent ? 0 : length - recent;
  const struct ballot ballot = {scores, old, 1, ATTN_POOLING_AVERAGE};
  *count = old <= heavy ? add_range(kept, 0, 0, old) : choose(&ballot, heavy, kept);
  *count = add_range(kept, *count, old, length);
  return ATTN_OK;
}

attn_status attn_evict_snapkv(const float *votes, size_t length, size_t window, size_t capacity,
                              size_t kernel, attn_pooling pooling, int32_t *kept, size_t *count)
{
  if (!is_complete(votes, length, kept, count) || kernel % 2 == 0 || window > capacity ||
      (pooling != ATTN_POOLING_AVERAGE && pooling != ATTN_POOLING_MAX))
    return ATTN_ERROR_ARGUMENT;
  if (length <= capacity) {
    *count = add_range(kept, 0, 0, length);
    return ATTN_OK;
  }
  const struct ballot ballot = {votes, length - window, kernel, pooling};
  *count = choose(&ballot, capacity - window, kept);
  *count = add_range(kept, *count, length - window, length);
  return ATTN_OK;
}
