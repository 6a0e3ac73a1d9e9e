//! Whose turn it is to have browsers: most tests here share one machine's patience. Enters: a test that wants some.
//! Leaves: its turn, until it is dropped. Must not touch: tests without a browser, which go beside.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests with a browser at once, however many processors there are: their pages measure how long things take.
const ABREAST: u32 = 2;

static PLACES: Semaphore = Semaphore::const_new(ABREAST as usize);

/// A turn beside one other test with a browser.
pub(crate) async fn shared() -> SemaphorePermit<'static> {
    PLACES.acquire().await.expect("never closed")
}

/// A turn beside no other: for tests with several browsers, or whose cases measure.
pub(crate) async fn alone() -> SemaphorePermit<'static> {
    PLACES.acquire_many(ABREAST).await.expect("never closed")
}
