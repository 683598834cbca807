//! Measures the kernels on a GPU, beside the driver's memset and copy, and beside hashing on the host.
//!
//! Run `cargo bench -p cocoon-kernels -- [--mib N] [--json]`; COCOON_KERNELS names the folder of the cubins. Each
//! figure is the median of complete calls, between two events on the GPU. A launcher's call also allocates and frees a
//! little memory, copies a table to the device and, except for filling, copies numbers back. It is compared with one
//! call of the driver, so only large memory gives a comparison of the kernels themselves.

#![expect(
    unsafe_code,
    reason = "the driver's memset and copy take plain addresses"
)]

mod host;
mod measure;
mod memory;
mod read;

use std::error::Error;

use cocoon_kernels::cubins::Cubins;
use cocoon_kernels::device::{Device as _, Memory as _};
use cocoon_kernels::gpu::{Gpu, GpuError};
use cocoon_kernels::{sm90_blake3, sm90_scrub};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUstream};
use measure::{COPY, Goal, MEMSET, READ, Report};
use read::Reader;

const MIB: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let mib = arguments.iter().position(|argument| argument == "--mib");
    let mib: u64 = match mib {
        Some(at) => arguments
            .get(at + 1)
            .ok_or("--mib wants a number")?
            .parse()?,
        None => 32_768,
    };
    let Some(folder) = std::env::var_os("COCOON_KERNELS") else {
        println!(
            "SKIPPED: COCOON_KERNELS does not name the folder of `cocoon-image kernels build`"
        );
        return Ok(());
    };
    let gpu = match Gpu::open(0, &Cubins::read(folder.as_ref())?) {
        Err(error @ (GpuError::NoDriver | GpuError::NoDevice { .. })) => {
            println!("SKIPPED: {error}");
            return Ok(());
        }
        opened => opened?,
    };
    let report = measured(&gpu, mib.max(1) * MIB)?;
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

fn measured(gpu: &Gpu, asked: u64) -> Result<Report, Box<dyn Error>> {
    let context = gpu.stream().context();
    let ask = |attribute| context.attribute(attribute);
    let clock = ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
    let width = ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    // The clock is in kHz and makes two transfers per tick; the bus width is in bits. Later drivers no longer report
    // them; the goals use measured figures only.
    let nominal = match (clock, width) {
        (Ok(clock), Ok(width)) if clock > 0 && width > 0 => {
            Some(2.0 * f64::from(clock) * 1e3 * f64::from(width) / 8.0)
        }
        _ => None,
    };
    let mut report = Report::new(context.name()?, nominal);

    memory::keep_what_is_freed(gpu)?;
    let bytes = memory::room(gpu, asked)?;
    let mut memory = gpu.allocate(bytes)?;
    let address = memory.address();
    let words = usize::try_from(bytes / 4)?;
    let memset = |stream: CUstream| -> Result<(), Box<dyn Error>> {
        // SAFETY: as many words as were allocated, in memory that lives until the end of this function.
        unsafe { sys::cuMemsetD32Async(address, 0, words, stream).result() }?;
        Ok(())
    };
    memory::warm(gpu, memset)?;
    report.time(gpu, MEMSET, bytes, memset)?;
    report.time(gpu, "sm90_scrub_fill", bytes, |_| {
        sm90_scrub::fill(gpu, &mut [memory.span_mut(0..bytes)?], 0)?;
        Ok(())
    })?;
    let half = usize::try_from(bytes / 2)?;
    // The copy reads one half and writes the other, and both count.
    report.time(gpu, COPY, bytes, |stream| {
        // SAFETY: two halves of one allocation.
        Ok(unsafe { result::memcpy_dtod_async(address + bytes / 2, address, half, stream) }?)
    })?;
    // If the driver cannot compile PTX, counting is compared with the copy instead.
    let reading = match Reader::open(gpu) {
        Ok(reader) => {
            report.time(gpu, READ, bytes, |stream| {
                // SAFETY: the whole allocation, which lives until the end of this function.
                unsafe { reader.start(stream, address, bytes) }
            })?;
            READ
        }
        Err(error) => {
            eprintln!("reading is compared with the driver's copy: {error}");
            COPY
        }
    };
    report.time(gpu, "sm90_scrub_count", bytes, |_| {
        let found = sm90_scrub::count(gpu, &[memory.span(0..bytes)?])?;
        assert_eq!(found, [0], "the memory was just filled with zeros");
        Ok(())
    })?;
    // Counting examines single bytes only if some are not zero. After a scrub all are zero, so the row over zeros has
    // the goal.
    let dirty = memory::randomize(gpu, &mut memory)?;
    report.time(gpu, "sm90_scrub_count, random bytes", bytes, |_| {
        let found = sm90_scrub::count(gpu, &[memory.span(0..bytes)?])?;
        assert_eq!(found, [dirty], "as the host counts");
        Ok(())
    })?;
    report.time(gpu, "sm90_blake3, one range", bytes, |_| {
        sm90_blake3::roots(gpu, &[memory.span(0..bytes)?])?;
        Ok(())
    })?;
    report.time(gpu, "sm90_blake3, misaligned by 1", bytes - 1, |_| {
        sm90_blake3::roots(gpu, &[memory.span(1..bytes)?])?;
        Ok(())
    })?;
    let tensor = bytes.min(4 * MIB);
    let tensors: Vec<_> = (0..bytes / tensor)
        .map(|i| memory.span(i * tensor..(i + 1) * tensor))
        .collect::<Result<_, _>>()?;
    // Only complete tensors count.
    let hashed = tensors.len() as u64 * tensor;
    report.time(gpu, "sm90_blake3, tensors of 4 MiB", hashed, |_| {
        sm90_blake3::roots(gpu, &tensors)?;
        Ok(())
    })?;

    let some = bytes.min(1024 * MIB);
    let root = host::time(&mut report, gpu, &memory, some)?;
    let ours = sm90_blake3::roots(gpu, &[memory.span(0..some)?])?[0];
    assert_eq!(
        ours.to_string(),
        root.to_string(),
        "both hash the same bytes"
    );
    // Measured again, now that the clocks are those under load: the faster row is kept.
    report.time(gpu, MEMSET, bytes, memset)?;

    report.goals(&[
        Goal::ratio("sm90_scrub_fill", MEMSET, 0.9),
        Goal::ratio("sm90_scrub_count", reading, 0.9),
        Goal::bytes_per_second("sm90_blake3, one range", 1.1e12),
        Goal::ratio("sm90_blake3, one range", host::BOTH, 200.0),
    ]);
    Ok(report)
}
