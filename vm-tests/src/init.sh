#!/bin/busybox sh
# The first process of the guest: mounts, modules, the cases of /cases one after another, the verdict.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root RUST_BACKTRACE=1 TERM=dumb
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
ulimit -n 65536
ifconfig lo up
echo "GUEST up $(uname -r)"
while read -r module; do
    insmod "/modules/$module" || echo "GUEST cannot load $module"
done </modules/order

failed=0
while read -r name limit command; do
    echo "CASE $name begins"
    if timeout "$limit" sh -c "$command" </dev/null; then
        echo "CASE $name ok"
    else
        echo "CASE $name FAILED ($?)"
        failed=1
    fi
done </cases
echo "GUEST done, failed=$failed"
# 16 or 17, so that no accident looks like success.
/target/debug/weir-vm-tests --verdict $((16 + failed))
poweroff -f
