//! A player's connection while a leg writes to it.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::debug;

use super::role::{Asked, Role};
use super::{Connection, END_LINGER, PLAY_FAILED, WRITE_TIMEOUT};
use crate::conn::end::End;
use crate::conn::legged::{Launch, LeggedPlayer, NEWS, News, ORDERS, Order, Wish};
use crate::conn::socket::{SendBounds, give_up_after};

impl Connection {
    /// Leaves the writing to a leg.
    pub(super) fn begin_leg(&mut self, asked: Asked, launch: Launch) -> Result<(), End> {
        let mut lead = std::mem::take(&mut self.out);
        lead.append(&mut self.session.take_output());
        self.out_blocked_since = None;
        let timeout = asked.vhost.play.write_timeout.max(WRITE_TIMEOUT);
        give_up_after(&self.io, timeout).map_err(End::Io)?;
        // A kernel that bounds nothing was told of at start, and serves all the same.
        _ = SendBounds::NONE.apply(&self.io);
        if !asked.vhost.tcp_nodelay {
            self.io.set_nodelay(false).map_err(End::Io)?;
        }
        let (order, orders) = mpsc::channel(ORDERS);
        let (news, told) = mpsc::channel(NEWS);
        let player = LeggedPlayer {
            io: Rc::clone(&self.io),
            peer: self.peer,
            request: asked.request.clone(),
            chunk_size: self.session.sent_chunk_size(),
            lead,
            heard: self.session.spoken().to_vec(),
            orders,
            news,
        };
        launch.start(Rc::clone(&self.shard), player);
        self.role = Role::Legged { asked, orders: order, news: told, carried: false };
        Ok(())
    }

    /// `None`: the leg was dropped.
    pub(super) fn on_news(&mut self, news: Option<News>, now: Instant) -> Result<(), End> {
        let Role::Legged { asked, carried, .. } = &mut self.role else { return Ok(()) };
        let msid = asked.request.msid;
        match news {
            Some(News::Carried) => {
                *carried = true;
                debug!(peer = %self.peer, stream = %asked.key, "play by a leg");
                self.did = Some(("play", asked.key.clone()));
                self.session.begin_relay(msid);
            }
            Some(News::Unfit(lead)) => {
                let (request, key, vhost) =
                    (asked.request.clone(), asked.key.clone(), asked.vhost.clone());
                let param = asked.param.clone();
                self.role = Role::None;
                self.out = lead;
                self.ask_play(&request, (key, param, vhost), true, now);
            }
            Some(News::Refused(lead, refusal)) => {
                self.role = Role::None;
                self.out = lead;
                self.refuse(msid, &refusal.code, &refusal.description, now);
            }
            Some(News::Ended { chunk_size, heard, sent, finished }) => {
                self.role = Role::None;
                self.client.add_sent(sent);
                self.session.end_relay(chunk_size, heard);
                if self.is_to_end_unread() {
                    self.close_at = Some(now);
                } else if finished {
                    self.session.finish_play(msid);
                    self.close_at = Some(now + END_LINGER);
                }
            }
            Some(News::Gone(None)) => return Err(End::Closed("closed by peer")),
            Some(News::Gone(Some(error))) => return Err(End::Io(error)),
            Some(News::Stuck) => return Err(End::Stuck),
            None if *carried => return Err(End::Io(io::Error::other("the leg broke"))),
            None => {
                self.role = Role::None;
                self.refuse(msid, PLAY_FAILED, "the edge stops", now);
            }
        }
        Ok(())
    }

    /// Gives the leg what the player said to the origin; what the session says itself is not to be
    /// heard.
    pub(super) fn pass_on(&mut self) -> Result<(), End> {
        drop(self.session.take_output());
        let said = self.session.take_relayed();
        let Role::Legged { orders, .. } = &self.role else { return Ok(()) };
        if said.is_empty() || orders.try_send(Order::Say(said)).is_ok() || orders.is_closed() {
            return Ok(());
        }
        Err(End::Stuck)
    }

    pub(super) fn wish(&mut self, wish: Wish) -> Result<(), End> {
        self.with_playing(|playing| match wish {
            Wish::Pause(paused) => playing.pause(paused),
            Wish::Audio(wanted) => playing.select(Some(wanted), None),
            Wish::Video(wanted) => playing.select(None, Some(wanted)),
        });
        self.pass_on_then(Order::Wish(wish))
    }

    /// The player has closed its stream: the leg is to end.
    pub(super) fn leave_leg(&mut self) -> Result<(), End> {
        self.pass_on_then(Order::Stop)?;
        if let Role::Legged { carried, .. } = &mut self.role {
            // Nothing more is read until it has ended.
            *carried = false;
        }
        Ok(())
    }

    /// Gives an order to the leg, if there is one, behind what the player said.
    pub(super) fn pass_on_then(&mut self, order: Order) -> Result<(), End> {
        if !matches!(self.role, Role::Legged { .. }) {
            return Ok(());
        }
        self.pass_on()?;
        let Role::Legged { orders, .. } = &self.role else { return Ok(()) };
        if orders.try_send(order).is_err() && !orders.is_closed() {
            return Err(End::Stuck);
        }
        Ok(())
    }
}
