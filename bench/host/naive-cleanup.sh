#!/bin/sh
# Removes stale sandboxes the way a manager does that knows one at a time: a process for each device, for each
# element and for each directory. Records are left out: how they are kept differs most, and costs least.
#
#   naive-cleanup.sh HOME TABLE < elements      one line an element: TAP . MAC . ADDRESS
set -eu
home=$1
table=$2
while read -r element; do
	tap=${element%% *}
	ip link show "$tap" >/dev/null
	ip link del "$tap"
	nft delete element inet "$table" sources "{ $element }"
done
for directory in "$home"/run/vm-seed-* "$home"/state/sandboxes/vm-seed-*; do
	rm -rf -- "$directory"
done
