//! The `gemm` crate alone, called as `solstice bench --child` is: `gemm-peer --models matmul-512 --devices gemm --seconds 3`.
//! Only `xtask/src/peers.rs` calls it.

use gemm::Parallelism;
use std::time::Instant;

fn main() {
    let started = Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).map(String::as_str);
    let (Some(model), Some(device), Some(seconds)) =
        (option("--models"), option("--devices"), option("--seconds").and_then(|seconds| seconds.parse::<f64>().ok()))
    else {
        usage("three options are wanted");
    };
    let sizes: Vec<usize> = model.strip_prefix("matmul-").unwrap_or("").split('x').filter_map(|size| size.parse().ok()).collect();
    let (rows, inner, columns) = match *sizes {
        [n] => (n, n, n),
        [rows, inner, columns] => (rows, inner, columns),
        _ => usage(&format!("`{model}` is no product")),
    };
    let matrix = |rows: usize, columns: usize| -> Vec<f32> {
        (0..rows * columns).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
    };
    let (left, right, mut out) = (matrix(rows, inner), matrix(inner, columns), vec![0.0f32; rows * columns]);
    let mut one = || {
        // SAFETY: three dense row-major matrices of the sizes given.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                out.as_mut_ptr(),
                1,
                columns as isize,
                false,
                left.as_ptr(),
                1,
                inner as isize,
                right.as_ptr(),
                1,
                columns as isize,
                1.0f32,
                1.0f32,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    };
    one();
    let first_step_secs = started.elapsed().as_secs_f64();
    // As `solstice bench` times.
    let (mut warm, begin) = (0, Instant::now());
    while warm < 2 || begin.elapsed().as_secs_f64() < 1.0 {
        one();
        warm += 1;
    }
    let together = (0.02 * f64::from(warm) / begin.elapsed().as_secs_f64()).clamp(1.0, 1000.0) as usize;
    let (mut times, begin) = (vec![], Instant::now());
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 3 {
        let start = Instant::now();
        for _ in 0..together {
            one();
        }
        times.push(start.elapsed().as_secs_f64() / together as f64);
    }
    times.sort_by(f64::total_cmp);
    let secs = times[times.len() / 2];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let extra = if cfg!(feature = "x86-v4") { " with x86-v4" } else { "" };
    println!(
        "{}",
        serde_json::json!({
            "model": model, "device": device, "adapter": format!("gemm 0.19{extra}, {threads} threads"),
            "ms_per_step": secs * 1e3, "samples_per_sec": 1.0 / secs, "parameters": 0, "peak_memory_mib": 0.0, "device_memory_mib": null,
            "first_step_secs": first_step_secs, "gflops_per_sec": 2e-9 * (rows * inner * columns) as f64 / secs,
        })
    );
}

fn usage(why: &str) -> ! {
    eprintln!("{why}: gemm-peer --models matmul-512 --devices gemm --seconds 3");
    std::process::exit(2);
}
