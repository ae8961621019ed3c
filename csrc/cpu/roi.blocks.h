// Sixteen channels of an image side by side, pixel by pixel: what a region's bins read and write with one vector.
#pragma once

#include "../core/products.h"
#include "roi.tables.h"

namespace mmk::cpu::MMK_ISA {

// Where sixteen channels of an operand lie: element (channel, place) at channel * channel_step + place * step.
template <class T> struct Block {
    T* data;
    int64_t channel_step, step, channels;
};

inline constexpr int64_t few = 4; // places that are not worth a transpose

// pixels[i][16] = element i of each channel; lanes beyond the channels are zero.
template <class T> MMK_INLINE void bring_block(const Block<const T>& from, int64_t count, T* pixels) {
    if (count >= few || from.channel_step == 1)
        return pack_panel(from.data, from.step, from.channel_step, count, from.channels, lanes, pixels);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t k = 0; k < lanes; ++k)
            pixels[i * lanes + k] = k < from.channels ? from.data[k * from.channel_step + i * from.step] : T(0);
}
// The way back.
template <class T> MMK_INLINE void take_block(const T* pixels, int64_t count, const Block<T>& to) {
    if (to.channel_step == 1) {
        for (int64_t i = 0; i < count; ++i) Vec<T>::load(pixels + i * lanes).store(to.data + i * to.step, to.channels);
    } else if (to.step == 1 && count >= few) {
        for (int64_t first = 0; first < count; first += lanes) {
            // the last sixteen reach back where they can
            const int64_t i = count < lanes || first + lanes <= count ? first : count - lanes;
            const int64_t some = count < lanes ? count : lanes;
            Vec<T> v[lanes];
            for (int64_t k = 0; k < lanes; ++k)
                v[k] = k < some ? Vec<T>::load(pixels + (i + k) * lanes) : Vec<T>::zero();
            transpose(v);
            for (int64_t k = 0; k < to.channels; ++k) v[k].store(to.data + k * to.channel_step + i, some);
        }
    } else
        for (int64_t i = 0; i < count; ++i)
            for (int64_t k = 0; k < to.channels; ++k)
                to.data[k * to.channel_step + i * to.step] = pixels[i * lanes + k];
}

// An N C H W operand, or its channels-last view, as blocks. Position-sensitive maps hold a plane for every channel and
// bin, in that order.
template <class T> struct Blocks {
    T* data;
    int64_t channels, places; // of an image or a region; places of a channel
    int64_t sensitive;        // planes of a channel: 1, or one for each bin
    bool channels_last;

    int64_t count() const { return (channels + lanes - 1) / lanes; }
    Block<T> block(int64_t n, int64_t index, int64_t plane = 0) const {
        const int64_t c = index * lanes, some = channels - c < lanes ? channels - c : lanes;
        T* const whole = data + n * channels * sensitive * places;
        if (channels_last) return {whole + c, 1, channels, some};
        return {whole + (c * sensitive + plane) * places, sensitive * places, 1, some};
    }
};

} // namespace mmk::cpu::MMK_ISA
