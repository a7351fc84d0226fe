// First word of threefry2x32 with 20 rounds. One function, no bindings.
//
// Inputs: the key (seed, stream) and the counter (step, element). Output: 32 random bits. Grid: none; the engine copies the function into generated kernels.
// Bounds: every bit pattern. CPU twin: `rng_bits` in host/engine/src/random.rs, equal bit for bit.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants as in Random123's threefry.h.

fn threefry_round(state: vec2<u32>, distance: u32) -> vec2<u32> {
    let left = state.x + state.y;
    return vec2<u32>(left, ((state.y << distance) | (state.y >> (32u - distance))) ^ left);
}

fn threefry2x32(seed: u32, stream: u32, step: u32, element: u32) -> u32 {
    let parity = 0x1bd11bdau ^ seed ^ stream;
    var state = vec2<u32>(step + seed, element + stream);
    state = threefry_round(threefry_round(threefry_round(threefry_round(state, 13u), 15u), 26u), 6u);
    state = state + vec2<u32>(stream, parity + 1u);
    state = threefry_round(threefry_round(threefry_round(threefry_round(state, 17u), 29u), 16u), 24u);
    state = state + vec2<u32>(parity, seed + 2u);
    state = threefry_round(threefry_round(threefry_round(threefry_round(state, 13u), 15u), 26u), 6u);
    state = state + vec2<u32>(seed, stream + 3u);
    state = threefry_round(threefry_round(threefry_round(threefry_round(state, 17u), 29u), 16u), 24u);
    state = state + vec2<u32>(stream, parity + 4u);
    state = threefry_round(threefry_round(threefry_round(threefry_round(state, 13u), 15u), 26u), 6u);
    state = state + vec2<u32>(parity, seed + 5u);
    return state.x;
}
