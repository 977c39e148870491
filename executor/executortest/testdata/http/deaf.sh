#!/bin/sh
echo "will never listen"
exec sleep 600
