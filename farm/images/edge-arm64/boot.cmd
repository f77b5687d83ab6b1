# What U-Boot does: RAUC's reference script (contrib/uboot.sh) for slots whose variables lie in the first sector of the
# disk's first partition, which this U-Boot reads and writes with `virtio read` and `virtio write`. The same variables
# are at hand on the board with fw_printenv and fw_setenv. BOOT_TRIAL names the slot that is on trial, or says `none`: that
# one never gets more than its one try.
setenv envaddr 0x50000000
setenv envsize 0x200
setenv envsector 0x800
setenv fdtaddr 0x51000000
setenv kerneladdr 0x42000000
setenv ramdiskaddr 0x4c000000
pci enum
virtio scan
virtio dev 0
setenv BOOT_ORDER "A B"
setenv BOOT_A_LEFT 3
setenv BOOT_B_LEFT 3
setenv BOOT_TRIAL none
setenv BOOT_ONCE ""
if virtio read ${envaddr} ${envsector} 1; then
  env import -c ${envaddr} ${envsize} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT BOOT_TRIAL BOOT_ONCE;
fi
setenv slot ""
setenv tryboot 0
# a slot that was asked for once: `reboot "0 tryboot"`; what is not exported below is forgotten
if test -n "${BOOT_ONCE}"; then
  setenv slot ${BOOT_ONCE};
  setenv tryboot 1;
fi
for one in "${BOOT_ORDER}"; do
  if test -n "${slot}"; then
    true;
  elif test "${one}" = "A" && test ${BOOT_A_LEFT} -gt 0; then
    setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1;
    setenv slot A;
  elif test "${one}" = "B" && test ${BOOT_B_LEFT} -gt 0; then
    setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1;
    setenv slot B;
  fi;
done
if test -z "${slot}"; then
  echo "edgehil: no slot has tries left; giving three to each that is not on trial";
  if test "${BOOT_TRIAL}" != "A"; then
    setenv BOOT_A_LEFT 3;
  fi;
  if test "${BOOT_TRIAL}" != "B"; then
    setenv BOOT_B_LEFT 3;
  fi;
fi
mw.b ${envaddr} 0 ${envsize}
env export -c -s ${envsize} ${envaddr} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT BOOT_TRIAL
virtio write ${envaddr} ${envsector} 1
if test -z "${slot}"; then
  reset;
fi
if test "${slot}" = "A"; then
  setenv part 2;
else
  setenv part 3;
fi
echo "edgehil: booting slot ${slot} from partition ${part}"
setenv bootargs "console=ttyAMA0 root=/dev/vda${part} ro rauc.slot=${slot} panic=1 oops=panic loglevel=4 numa_balancing=disable nokaslr"
fdt addr ${fdtcontroladdr}
fdt move ${fdtcontroladdr} ${fdtaddr} 0x40000
fdt mknode /chosen bootloader
fdt set /chosen/bootloader partition <${part}>
fdt set /chosen/bootloader tryboot <${tryboot}>
if ext4load virtio 0:${part} ${kerneladdr} /boot/vmlinuz && ext4load virtio 0:${part} ${ramdiskaddr} /boot/initrd; then
  booti ${kerneladdr} ${ramdiskaddr}:${filesize} ${fdtaddr};
fi
echo "edgehil: slot ${slot} does not boot"
sleep 1
reset
