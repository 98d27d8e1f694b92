"""Measurements that are run by hand, and their recorded results."""

from codec.support.waiting import wait_passively

wait_passively()
