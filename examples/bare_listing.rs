//! The bare listing of a local folder by the library that etl lists with: `bare_listing <folder>` prints how many objects there are.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::error::Error;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder?")?;
    let store = LocalFileSystem::new_with_prefix(folder)?;
    let count = store.list(None).try_fold(0_u64, |count, _| async move { Ok(count + 1) }).await?;
    println!("{count}");
    Ok(())
}
