"""The fused functions for autocast and for the compiler: rounding in float32, products in the dtype of autocast.

Both factors of a forward product are integer codes, which bfloat16 holds exactly; their steps multiply the product
afterwards, in float32. So what autocast rounds is the result of a product, never what goes into it.

Nothing is done in place, and what is summed over tokens and images is summed by rows first, because the compiler then
makes one pass of it. Where it is not the compiler that calls, on a card, the elementwise parts are compiled by
themselves. Of the input of a product only the input itself is kept; all else is made again in the backward pass.
"""
