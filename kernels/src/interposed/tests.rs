//! Tests of the interposed calls, over a stand-in for the driver (`tests/emulator/driver.cc`): in a program that is
//! linked to it, as the engine is, and in one that opens it, whose calls bypass the table. Each test has its own
//! process, because the table belongs to the process. `kernels/on-gpu` also runs the tests that do not need the
//! stand-in on a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::*;
use crate::cubins::Cubins;
use crate::cubins::tests::{CUBIN, cubins};

/// Opens the GPU on the default stream, which candle uses. A real driver loads only real machine code, so
/// COCOON_KERNELS then names the folder of the cubins.
fn gpu() -> (Gpu, Arc<CudaStream>) {
    let stream = CudaContext::new(0).unwrap().default_stream();
    let cubins = match std::env::var_os("COCOON_KERNELS") {
        Some(folder) => Cubins::read(folder.as_ref()).unwrap(),
        None => cubins(CUBIN),
    };
    (Gpu::on(Arc::clone(&stream), &cubins).unwrap(), stream)
}

#[cfg(not(feature = "linked"))]
mod passing_by {
    use super::*;

    #[test]
    #[ignore = "run by `gpu::tests::over_an_emulated_driver`"]
    fn is_noticed() {
        assert_eq!(
            self_test(&gpu().0).unwrap_err().to_string(),
            "the GPU's memory is not watched: an allocation is not in the table with what was written to it; this program is \
             linked so that calls of the driver pass by it"
        );
        assert_eq!(counts(), Counts::default());
    }
}

#[cfg(feature = "linked")]
mod linked {
    use cudarc::driver::{CudaSlice, DevicePtr as _};

    use super::*;
    use crate::device::Device as _;
    use crate::ledger::Part;
    use crate::sm90_blake3;

    /// Returns a function of the stand-in; `None` over a driver that lacks it.
    fn of_stand_in(name: &CStr) -> Option<*const ()> {
        let address = next_in_line(name);
        (address != 0).then(|| std::ptr::with_exposed_provenance(address))
    }

    /// Fails if the driver got an allocation back that was not all zero. NVIDIA's driver does not report that.
    fn nothing_was_freed_with_contents() {
        let Some(address) = of_stand_in(c"emulated_freed_with_contents") else {
            println!("not checked: what is in memory when this driver gets it back");
            return;
        };
        // SAFETY: the stand-in's function of this name has this signature.
        let count =
            unsafe { std::mem::transmute::<*const (), unsafe extern "C" fn() -> u64>(address) };
        // SAFETY: the function only waits and counts.
        assert_eq!(unsafe { count() }, 0);
    }

    /// Sets whether the stand-in refuses to fill memory from now on.
    fn refuses(refuses: bool) {
        let address = of_stand_in(c"emulated_refuses").expect("the stand-in");
        // SAFETY: the stand-in's function of this name has this signature.
        let set = unsafe { std::mem::transmute::<*const (), unsafe extern "C" fn(bool)>(address) };
        // SAFETY: the function only sets a variable.
        unsafe { set(refuses) };
    }

    /// Reads the content of `memory`. The stand-in copies only when it is waited for.
    fn read(memory: &CudaSlice<u8>, stream: &Arc<CudaStream>) -> Vec<u8> {
        let bytes = stream.clone_dtoh(memory).unwrap();
        stream.synchronize().unwrap();
        bytes
    }

    fn address(memory: &CudaSlice<u8>, stream: &CudaStream) -> (u64, u64) {
        (memory.device_ptr(stream).0, memory.len() as u64)
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn a_scrub_erases_what_was_given_back_and_the_pool_and_nothing_else() {
        let (gpu, stream) = gpu();
        self_test(&gpu).unwrap();
        let before = counts();
        // The pattern, and the memory used for counting it: a table and numbers.
        assert_eq!(
            (before.scrubbed_bytes, before.residue_bytes),
            (200_192 + 2 * 512, 0)
        );

        let weights = stream.clone_htod(&[7; 100_000]).unwrap();
        let pool = stream.clone_htod(&[9; 5_000]).unwrap();
        // Data that the library derives from weights on the GPU, such as an embedding; the host never writes it.
        let made = stream.clone_dtod(&weights).unwrap();
        let expected = [&weights, &pool, &made].map(|memory| address(memory, &stream));
        let part = |(address, bytes)| Part { address, bytes };
        let all = Contents {
            uploads: expected[..2].iter().copied().map(part).collect(),
            derived: vec![part(expected[2])],
        };
        assert_eq!(contents(&[]).unwrap(), all);
        let aside = contents(&expected[1..2]).unwrap();
        assert_eq!(aside.uploads, all.uploads[..1]);
        assert_eq!(
            contents(&[(expected[1].0, 5_121)]).unwrap_err().to_string(),
            format!(
                "5121 bytes at {:#x} are not one allocation of the table's",
                expected[1].0
            )
        );
        for length in 1..100 {
            drop(stream.clone_htod(&vec![1_u8; length * 37]).unwrap());
        }
        // SAFETY: nobody uses the pool until the scrub is done.
        let scrubbed = unsafe { scrub(&gpu, &[address(&pool, &stream)]) }.unwrap();
        assert!(
            scrubbed.bytes > 5_000 && scrubbed.residue == 0,
            "{scrubbed:?}"
        );
        assert_eq!(read(&pool, &stream), [0; 5_000]);
        assert_eq!(read(&weights, &stream), [7; 100_000]);
        // SAFETY: the memory lives, and nobody writes it.
        let span = unsafe { gpu.span(expected[0].0, 100_000) }.unwrap();
        // SAFETY: as above.
        let derived = unsafe { gpu.span(expected[2].0, 100_000) }.unwrap();
        for root in sm90_blake3::roots(&gpu, &[span, derived]).unwrap() {
            assert_eq!(root.0, *blake3::hash(&[7; 100_000]).as_bytes());
        }

        let after = counts();
        assert_eq!(after.scrubbed_bytes - before.scrubbed_bytes, scrubbed.bytes);
        assert_eq!((after.residue_bytes, after.strays), (0, 0));
        // A second scrub covers only the memory of the first one itself: its table and its numbers.
        // SAFETY: there is no pool.
        let again = unsafe { scrub(&gpu, &[]) }.unwrap();
        assert!(again.bytes < scrubbed.bytes / 2, "{again:?}");
        nothing_was_freed_with_contents();
        if of_stand_in(c"emulated_refuses").is_none() {
            more_than_is_kept(&gpu, &stream);
        }
    }

    /// Gives back more than is kept at once, so that some of it is overwritten and freed. This is too slow for the
    /// stand-in.
    fn more_than_is_kept(gpu: &Gpu, stream: &Arc<CudaStream>) {
        const PIECE: u64 = 256 << 20;
        let piece = vec![9_u8; usize::try_from(PIECE).unwrap()];
        let first = stream.clone_htod(&piece).unwrap();
        let mut pieces: Vec<_> = (1..10)
            .map(|_| stream.clone_dtod(&first).unwrap())
            .collect();
        pieces.push(first);
        drop(pieces);
        stream.synchronize().unwrap();
        // SAFETY: there is no pool.
        let scrubbed = unsafe { scrub(gpu, &[]) }.unwrap();
        assert!(
            (KEPT - PIECE..=KEPT).contains(&scrubbed.bytes) && scrubbed.residue == 0,
            "{scrubbed:?}"
        );
        assert_eq!(counts().strays, 0);
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn where_memory_is_short_it_goes_back_to_the_driver_overwritten() {
        let (gpu, stream) = gpu();
        self_test(&gpu).unwrap();
        // The stand-in has 1 MB in all (`tests/linked.rs`).
        for length in [400_000, 500_000, 600_000] {
            let memory = stream.clone_htod(&vec![3_u8; length]).unwrap();
            assert_eq!(read(&memory, &stream), vec![3; length]);
        }
        // SAFETY: the memory is never written or read.
        let too_much = unsafe { stream.alloc::<u8>(1_000_001) };
        assert_eq!(
            too_much.unwrap_err().0,
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
        );
        // SAFETY: the memory, which belongs to no stream, is written at once, below.
        let plain = unsafe { cudarc::driver::result::malloc_sync(1_000) }.unwrap();
        // SAFETY: as many bytes as were allocated.
        unsafe { cudarc::driver::result::memcpy_htod_sync(plain, &[5_u8; 1_000]) }.unwrap();
        assert!(contents(&[]).unwrap().uploads.contains(&Part {
            address: plain,
            bytes: 1_000
        }));
        // SAFETY: allocated above, and used by nobody.
        unsafe { cudarc::driver::result::free_sync(plain) }.unwrap();
        // A stream may end, so nothing is kept for it. The new thread has no current context.
        let other = stream.context().new_stream().unwrap();
        let memory = other.clone_htod(&[8; 3_000]).unwrap().leak();
        let handle = other.cu_stream().expose_provenance();
        std::thread::spawn(move || {
            let stream = std::ptr::with_exposed_provenance_mut(handle);
            // SAFETY: nobody else has the memory any more, and the stream lives.
            unsafe { cudarc::driver::result::free_async(memory, stream) }.unwrap();
        })
        .join()
        .unwrap();
        assert!(!ledger().is_live(memory));
        assert_eq!(ledger().reuse(3_000, handle as u64), None);
        nothing_was_freed_with_contents();
        assert_eq!(counts().strays, 0);
        drop(gpu);
    }

    unsafe extern "C" {
        // Resolved to the definitions in this program, which precede those of the runtime library.
        fn cudaMalloc(address: *mut u64, bytes: usize) -> c_int;
        fn cudaMallocAsync_ptsz(address: *mut u64, bytes: usize, stream: sys::CUstream) -> c_int;
    }

    /// The runtime library's last error, which the stand-in imitates.
    fn last_error() -> c_int {
        let address = of_stand_in(c"cudaGetLastError").expect("the stand-in");
        // SAFETY: the stand-in's function of this name has this signature.
        let last =
            unsafe { std::mem::transmute::<*const (), unsafe extern "C" fn() -> c_int>(address) };
        // SAFETY: the function only reads and sets a variable.
        unsafe { last() }
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn whoever_asks_for_memory_gets_what_was_kept() {
        let (gpu, stream) = gpu();
        self_test(&gpu).unwrap();
        let pool = {
            let device = cudarc::driver::result::device::get(0).unwrap();
            // SAFETY: the driver has returned this device.
            unsafe { cudarc::driver::result::device::get_default_mem_pool(device) }.unwrap()
        };
        const BYTES: usize = 700_000;
        let on = stream.cu_stream();
        type Allocate<'a> = &'a dyn Fn(*mut u64) -> c_int;
        let calls: [Allocate<'_>; 5] = [
            // SAFETY: the place for the result lives, and so does the stream.
            &|place| unsafe { sys::cuMemAllocAsync(place, BYTES, on) as c_int },
            // SAFETY: as above, and the pool is the driver's own.
            &|place| unsafe { sys::cuMemAllocFromPoolAsync(place, BYTES, pool, on) as c_int },
            // SAFETY: the place for the result lives.
            &|place| unsafe { sys::cuMemAlloc_v2(place, BYTES) as c_int },
            // SAFETY: the place for the result lives, and so does the stream.
            &|place| unsafe { cudaMallocAsync_ptsz(place, BYTES, on) },
            // SAFETY: the place for the result lives.
            &|place| unsafe { cudaMalloc(place, BYTES) },
        ];
        for (call, allocate) in calls.iter().enumerate() {
            // The stand-in has 1 MB in all (`tests/linked.rs`), and nothing has waited for the GPU when more is asked
            // for.
            drop(stream.clone_htod(&vec![3_u8; 600_000]).unwrap());
            let mut address = 0;
            assert_eq!(allocate(&raw mut address), SUCCESS, "call {call}");
            assert!(ledger().is_live(address));
            assert_eq!(last_error(), SUCCESS, "call {call}");
            // Memory of any kind is overwritten before it is freed.
            // SAFETY: as many bytes as were allocated; used by nobody else.
            unsafe { cudarc::driver::result::memcpy_htod_async(address, &[5_u8; BYTES], on) }
                .unwrap();
            // SAFETY: allocated above, and used by nobody.
            unsafe { cudarc::driver::result::free_sync(address) }.unwrap();
            nothing_was_freed_with_contents();
        }
        assert_eq!(counts().strays, 0);
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn what_is_held_since_a_moment_is_told_and_no_scrub_reaches_it() {
        let (gpu, stream) = gpu();
        self_test(&gpu).unwrap();
        let weights = stream.clone_htod(&[7_u8; 100_000]).unwrap();
        let loaded = moment();
        let uploaded = stream.clone_htod(&[8_u8; 512]).unwrap();
        let made = stream.clone_dtod(&weights).unwrap();
        // SAFETY: there is no pool.
        unsafe { scrub(&gpu, &[]) }.unwrap();
        assert_eq!(live_bytes(loaded), 512 + 100_352);
        assert_eq!(read(&uploaded, &stream), [8; 512]);
        drop((uploaded, made));
        // SAFETY: there is no pool.
        unsafe { scrub(&gpu, &[]) }.unwrap();
        assert_eq!(live_bytes(loaded), 0);
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn what_cannot_be_overwritten_is_there_for_the_next_scrub_and_is_told() {
        let (gpu, stream) = gpu();
        self_test(&gpu).unwrap();
        // The stand-in has 1 MB in all (`tests/linked.rs`).
        drop(stream.clone_htod(&vec![3_u8; 400_000]).unwrap());
        // SAFETY: the memory, which belongs to no stream, is written at once, below.
        let plain = unsafe { cudarc::driver::result::malloc_sync(1_000) }.unwrap();
        // SAFETY: as many bytes as were allocated.
        unsafe { cudarc::driver::result::memcpy_htod_sync(plain, &[5_u8; 1_000]) }.unwrap();
        stream.synchronize().unwrap();

        refuses(true);
        // SAFETY: the memory is never written or read.
        let short = unsafe { stream.alloc::<u8>(700_000) };
        assert_eq!(
            short.unwrap_err().0,
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
        );
        let told = counts().strays;
        assert!(told > 0);
        // SAFETY: allocated above, and used by nobody.
        let kept = unsafe { cudarc::driver::result::free_sync(plain) };
        assert_eq!(
            kept.unwrap_err().0,
            sys::CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
        assert_eq!(counts().strays, told + 1);
        refuses(false);

        // SAFETY: there is no pool.
        let scrubbed = unsafe { scrub(&gpu, &[]) }.unwrap();
        assert!(
            scrubbed.bytes > 401_000 && scrubbed.residue == 0,
            "{scrubbed:?}"
        );
        // This allocation needs all memory back, which must be overwritten by now.
        // SAFETY: the memory is never written or read.
        drop(unsafe { stream.alloc::<u8>(990_000) }.unwrap());
        nothing_was_freed_with_contents();
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn a_scrub_that_does_not_erase_is_found_out() {
        let (gpu, _stream) = gpu();
        let error = self_test(&gpu).unwrap_err();
        let SelfTestError::Residue { bytes } = error else {
            panic!("{error}");
        };
        // The pattern, and garbage after it in its allocation and in the memory of the scrub itself.
        assert!((200_192..201_216).contains(&bytes), "{bytes}");
        assert_eq!(counts().residue_bytes, bytes);
        assert_eq!(
            error.to_string(),
            format!("a scrub has left {bytes} bytes that are not zero")
        );
        // The memory counts as dirty still, so that the next scrub meets it again.
        // SAFETY: there is no pool.
        let again = unsafe { scrub(&gpu, &[]) }.unwrap();
        assert!(again.residue >= 200_000, "{again:?}");
    }

    #[test]
    #[ignore = "run by `tests/linked.rs`"]
    fn memory_through_which_things_cross_uncounted_is_refused() {
        let (gpu, stream) = gpu();
        let refused = Err(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let flags = sys::CUmemAttach_flags_enum::CU_MEM_ATTACH_GLOBAL;
        // SAFETY: refused, and so never used.
        let managed = unsafe { cudarc::driver::result::malloc_managed(8, flags) };
        assert_eq!(managed.map_err(|error| error.0).map(|_| ()), refused);
        // SAFETY: refused, and so never used.
        let pinned = unsafe { stream.context().alloc_pinned::<u8>(8) };
        assert_eq!(pinned.map_err(|error| error.0).map(|_| ()), refused);
        drop(gpu.allocate(1));
    }
}
