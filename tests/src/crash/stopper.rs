use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use clap::ValueEnum;
use san_core::{Effect, EffectObserver, Effects, Result};
use tokio::sync::Notify;

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// It has not happened.
    Before,
    /// It is done and nobody has seen the answer.
    After,
}

/// Which effect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// By its number, counted from 0.
    Number(usize),
    /// The first one whose words begin so.
    Named(String),
}

/// What the chosen boundary means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The process is dead: nothing of it goes on any more.
    Die,
    /// This effect waits until it is let go.
    Hold,
}

/// Lets effects pass and counts them; at the chosen boundary nothing goes on any more, or not for now.
#[derive(Debug)]
pub struct Stopper {
    at: Option<(Which, Side)>,
    then: Then,
    passed: Mutex<Vec<String>>,
    has_stopped: AtomicBool,
    is_dead: AtomicBool,
    stopped: Notify,
    released: Notify,
}

impl Stopper {
    /// Stops at the effect number `at`, counted from 0; `None` only counts.
    pub fn new(at: Option<(usize, Side)>) -> Arc<Self> {
        Self::at(at.map(|(number, side)| (Which::Number(number), side)), Then::Die)
    }

    /// Holds the effect number `number` on this side until [`Stopper::release`].
    pub fn holding(number: usize, side: Side) -> Arc<Self> {
        Self::at(Some((Which::Number(number), side)), Then::Hold)
    }

    /// Stops at the first effect whose words (verb and subject) begin with `words`.
    pub fn named(words: impl Into<String>, side: Side) -> Arc<Self> {
        Self::at(Some((Which::Named(words.into()), side)), Then::Die)
    }

    fn at(at: Option<(Which, Side)>, then: Then) -> Arc<Self> {
        Arc::new(Self {
            at,
            then,
            passed: Mutex::default(),
            has_stopped: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
            stopped: Notify::new(),
            released: Notify::new(),
        })
    }

    /// The seam with this observer.
    pub fn effects(self: &Arc<Self>) -> Effects {
        Effects::observed(Arc::clone(self) as Arc<dyn EffectObserver>)
    }

    /// The effects that have begun, in words.
    pub fn passed(&self) -> Vec<String> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the boundary is reached.
    pub async fn reached(&self) {
        self.stopped.notified().await;
    }

    /// Lets the held effect go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    /// Whether the effect `number`, or any one in these words, is the chosen one on this side.
    fn is_chosen(&self, number: Option<usize>, words: &str, side: Side) -> bool {
        match &self.at {
            Some((which, of)) if *of == side => match which {
                // Effects run side by side, so that one that ends is known by what it is.
                Which::Number(at) => number.map_or_else(
                    || self.passed().get(*at).map(String::as_str) == Some(words),
                    |number| number == *at,
                ),
                Which::Named(beginning) => words.starts_with(beginning.as_str()),
            },
            _ => false,
        }
    }

    /// Nothing goes on where the process died here, or has died meanwhile in another task.
    async fn stop_if(&self, here: bool) -> Result<()> {
        // Later effects may have the same words.
        if here && !self.has_stopped.swap(true, Ordering::SeqCst) {
            self.is_dead.store(self.then == Then::Die, Ordering::SeqCst);
            self.stopped.notify_one();
            if self.then == Then::Hold {
                self.released.notified().await;
            }
        }
        if self.is_dead.load(Ordering::SeqCst) { pending().await } else { Ok(()) }
    }
}

#[async_trait]
impl EffectObserver for Stopper {
    async fn before(&self, effect: &Effect) -> Result<()> {
        let words = effect.to_string();
        let number = {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            passed.push(words.clone());
            passed.len() - 1
        };
        self.stop_if(self.is_chosen(Some(number), &words, Side::Before)).await
    }

    async fn after(&self, effect: &Effect) -> Result<()> {
        self.stop_if(self.is_chosen(None, &effect.to_string(), Side::After)).await
    }
}
