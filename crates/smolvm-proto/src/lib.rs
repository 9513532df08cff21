//! Wire format between smolvm's host side and its guest agent.
