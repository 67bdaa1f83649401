//! A stream that goes on while nobody asks it for more.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// The same items from a task of its own, which ends with the stream that is returned; up to `items` of them wait.
/// Where that task fails, its failure is the last item: nothing is left out unseen.
pub fn ahead<T, E>(
    stream: impl Stream<Item = Result<T, E>> + Send + 'static,
    items: usize,
    failed: impl Fn(JoinError) -> E + Send + 'static,
) -> BoxStream<'static, Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let (send, receive) = mpsc::channel(items.max(1));
    let mut task = JoinSet::new();
    task.spawn(pass_on(stream, send));
    received(receive, task, failed)
}

/// The same from a thread of its own: for items that are much work. Tasks that wake each other take turns on one thread.
pub fn ahead_on_a_thread<T, E>(
    stream: impl Stream<Item = Result<T, E>> + Send + 'static,
    items: usize,
    failed: impl Fn(JoinError) -> E + Send + 'static,
) -> BoxStream<'static, Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let (send, receive) = mpsc::channel(items.max(1));
    let mut task = JoinSet::new();
    let runtime = Handle::current();
    task.spawn_blocking(move || runtime.block_on(pass_on(stream, send)));
    received(receive, task, failed)
}

async fn pass_on<T>(stream: impl Stream<Item = T>, send: mpsc::Sender<T>) {
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        if send.send(item).await.is_err() {
            return;
        }
    }
}

fn received<T, E>(
    receive: mpsc::Receiver<Result<T, E>>,
    task: JoinSet<()>,
    failed: impl Fn(JoinError) -> E + Send + 'static,
) -> BoxStream<'static, Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let next = |(mut receive, mut task): (mpsc::Receiver<_>, JoinSet<()>)| async move {
        let item = match receive.recv().await {
            Some(item) => Ok(item),
            None => Err(task.join_next().await?.err()?),
        };
        Some((item, (receive, task)))
    };
    futures::stream::unfold((receive, task), next).map(move |item| item.unwrap_or_else(|error| Err(failed(error)))).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_items_come_in_order_and_a_failure_of_the_task_is_told() {
        let sound = futures::stream::iter((0..50).map(Ok::<_, String>));
        let items: Vec<_> = ahead(sound, 3, |error| error.to_string()).collect().await;
        assert_eq!(items, (0..50).map(Ok).collect::<Vec<_>>());
        let breaking = futures::stream::iter(0..5).map(|n| if n < 3 { Ok::<_, String>(n) } else { panic!("no more") });
        let items: Vec<_> = ahead(breaking, 10, |error| error.to_string()).collect().await;
        assert_eq!(items[..3], [Ok(0), Ok(1), Ok(2)]);
        assert!(items.len() == 4 && items[3].as_ref().is_err_and(|error| error.contains("panic")), "{items:?}");
    }

    #[tokio::test]
    async fn so_they_do_from_a_thread() {
        let slow = futures::stream::iter((0..50).map(Ok::<_, String>)).then(async |n| {
            tokio::time::sleep(std::time::Duration::from_micros(20)).await;
            n
        });
        let items: Vec<_> = ahead_on_a_thread(slow, 3, |error| error.to_string()).collect().await;
        assert_eq!(items, (0..50).map(Ok).collect::<Vec<_>>());
        let breaking = futures::stream::iter(0..5).map(|n| if n < 3 { Ok::<_, String>(n) } else { panic!("no more") });
        let items: Vec<_> = ahead_on_a_thread(breaking, 10, |error| error.to_string()).collect().await;
        assert!(items.len() == 4 && items[3].as_ref().is_err_and(|error| error.contains("panic")), "{items:?}");
    }

    #[tokio::test]
    async fn it_ends_with_whoever_listens() {
        let held = std::sync::Arc::new(());
        let inside = held.clone();
        let endless = futures::stream::repeat_with(move || Ok::<_, String>(inside.clone()));
        let mut items = ahead(endless.clone(), 2, |error| error.to_string());
        assert!(items.next().await.is_some());
        drop(items);
        let mut items = ahead_on_a_thread(endless, 2, |error| error.to_string());
        assert!(items.next().await.is_some());
        drop(items);
        while std::sync::Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
