//! What goes, and what stays although room is wanted.

use std::collections::BTreeMap;

use firn_nix::StorePath;
use firn_store::{Collected, Eviction, Reason, StoreError, UnixSeconds, Visible, plan_eviction};

use crate::inner::Inner;
use crate::uses;
use crate::{Engine, EngineError};

/// What [`Engine::collect`] has done, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// What went out of view, in this order.
    pub evicted: Vec<Evicted>,
    /// How many bytes of contents go with that.
    pub evicted_bytes: u64,
    /// How long the contents of all that is visible are together after that, without what is adopted; `None` where no
    /// limit was given.
    pub bytes_left: Option<u64>,
    /// Whether that is within the limit. If not, what is pinned is too much.
    pub is_enough: bool,
    /// What was deleted; in a dry run, without what would be evicted.
    pub collected: Collected,
}

/// Something that went out of view because room was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// What.
    pub what: Visible,
    /// The path's name, where it is one that was in view.
    pub path: Option<StorePath>,
    /// When it was used last.
    pub used: Option<UnixSeconds>,
}

impl Engine {
    /// Ends the visibility of something, its pin too; whether it was visible. Nix and peers see it no longer before the
    /// store has forgotten it. Its contents stay until [`Engine::collect`].
    pub async fn remove(&self, what: &Visible) -> Result<bool, EngineError> {
        let (inner, what) = (self.0.clone(), what.clone());
        let remove = move || {
            let _alone = inner.alone();
            let was_visible = inner.take_out(&what)?;
            if was_visible {
                inner.changed();
            }
            Ok::<_, StoreError>(was_visible)
        };
        Ok(self.0.crew.pool.run(remove).await??)
    }

    /// Evicts what is not pinned, the least recently used first, until the contents of what is visible take no more than
    /// `bytes_max`; then deletes what nothing visible needs. `None` evicts nothing. A dry run only tells.
    pub async fn collect(&self, bytes_max: Option<u64>, dry_run: bool) -> Result<Collection, EngineError> {
        let _turn = self.0.collecting.lock().await;
        let inner = self.0.clone();
        let collect = move || {
            let evicted = match bytes_max {
                Some(bytes_max) => inner.evict(bytes_max, dry_run)?,
                None => Collection { is_enough: true, ..Collection::default() },
            };
            Ok::<_, StoreError>(Collection { collected: inner.store().collect(dry_run)?, ..evicted })
        };
        Ok(self.0.crew.pool.run(collect).await??)
    }

    /// Pins something, in place of an earlier reason. It need not be visible yet.
    pub async fn pin(&self, what: &Visible, reason: &Reason) -> Result<(), EngineError> {
        let (inner, what, reason) = (self.0.clone(), what.clone(), reason.clone());
        let pin = move || {
            // Whoever evicts looks at the pins alone.
            let _gate = inner.commits();
            inner.store().pin(&what, &reason)
        };
        Ok(self.0.crew.pool.run(pin).await??)
    }

    /// Takes a pin away; whether there was one.
    pub async fn unpin(&self, what: &Visible) -> Result<bool, EngineError> {
        let (inner, what) = (self.0.clone(), what.clone());
        Ok(self.0.crew.pool.run(move || inner.store().unpin(&what)).await??)
    }

    /// All pins.
    pub async fn pins(&self) -> Result<BTreeMap<Visible, Reason>, EngineError> {
        let inner = self.0.clone();
        Ok(self.0.crew.pool.run(move || inner.store().pins()).await??)
    }
}

impl Inner {
    /// Takes out what has to go so that what is visible takes no more than this.
    fn evict(&self, bytes_max: u64, dry_run: bool) -> Result<Collection, StoreError> {
        let now = uses::now();
        let planned = plan_eviction(self.store(), bytes_max, now)?;
        let Eviction { remove, bytes, bytes_left, is_enough } = planned;
        let uses = self.store().uses()?;
        if !dry_run {
            // From now on what a clock has noted that was ahead grows old like all else.
            let mut of_the_future = uses.iter().filter(|(_, at)| **at > now);
            of_the_future.try_for_each(|(what, _)| self.store().used(what, now))?;
        }
        let mut evicted: Vec<_> = remove
            .into_iter()
            .map(|what| Evicted { path: self.index.name(&what), used: uses.get(&what).copied(), what })
            .collect();
        if !dry_run && !evicted.is_empty() {
            let _alone = self.alone();
            // Somebody may have pinned it meanwhile.
            let pins = self.store().pins()?;
            evicted.retain(|evicted| !pins.contains_key(&evicted.what));
            for Evicted { what, .. } in &evicted {
                self.take_out(what)?;
            }
            self.changed();
        }
        Ok(Collection {
            evicted,
            evicted_bytes: bytes,
            bytes_left: Some(bytes_left),
            is_enough,
            ..Collection::default()
        })
    }

    /// Takes something out of view, then out of the store; whether it was in either. Only for who is [alone](Inner::alone).
    pub(crate) fn take_out(&self, what: &Visible) -> Result<bool, StoreError> {
        let was_in_view = self.index.remove(self.store(), what);
        self.uses.forget(what);
        Ok(self.store().remove(what)? || was_in_view)
    }
}
