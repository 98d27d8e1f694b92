;; Products of 16-bit matrices, exact. assembler.mjs turns this text into WebAssembly when a page opens.
;;
;; multiply adds x w to out: x is rows x 2 pairs of int16 (rows a multiple of 4), out is rows x columns of float64.
;; w lies in groups; a group has, for each pair of inputs, two vectors of eight int16: four outputs by two inputs each.
;; One i32x4.dot_i16x8_s takes two inputs for four outputs, so its lanes are the outputs' own 32-bit sums.
;;   split 0: a group is eight outputs, four a vector.
;;   split 1: a group is four outputs; the vectors hold the low and high bytes of their weights, w = low + 256 high.
;; The caller sees to it that no 32-bit sum overflows (kernel.mjs).
(module
  (import "page" "memory" (memory 1))

  ;; Adds one row's sums of a group to four or eight float64 at $at.
  (func $store (param $at i32) (param $a v128) (param $b v128) (param $split i32)
    local.get $split
    if
      local.get $at
      local.get $at
      v128.load
      local.get $a
      f64x2.convert_low_i32x4_s
      f64x2.add
      local.get $b
      f64x2.convert_low_i32x4_s
      f64.const 256
      f64x2.splat
      f64x2.mul
      f64x2.add
      v128.store
      local.get $at
      local.get $at
      v128.load offset=16
      local.get $a
      local.get $a
      i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
      f64x2.convert_low_i32x4_s
      f64x2.add
      local.get $b
      local.get $b
      i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
      f64x2.convert_low_i32x4_s
      f64.const 256
      f64x2.splat
      f64x2.mul
      f64x2.add
      v128.store offset=16
    else
      local.get $at
      local.get $at
      v128.load
      local.get $a
      f64x2.convert_low_i32x4_s
      f64x2.add
      v128.store
      local.get $at
      local.get $at
      v128.load offset=16
      local.get $a
      local.get $a
      i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
      f64x2.convert_low_i32x4_s
      f64x2.add
      v128.store offset=16
      local.get $at
      local.get $at
      v128.load offset=32
      local.get $b
      f64x2.convert_low_i32x4_s
      f64x2.add
      v128.store offset=32
      local.get $at
      local.get $at
      v128.load offset=48
      local.get $b
      local.get $b
      i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
      f64x2.convert_low_i32x4_s
      f64x2.add
      v128.store offset=48
    end)

  ;; $stride: bytes from a row of x to the next; $width: bytes from a row of out to the next.
  (func $multiply (export "multiply")
    (param $x i32) (param $stride i32) (param $w i32) (param $out i32) (param $width i32)
    (param $rows i32) (param $pairs i32) (param $groups i32) (param $split i32)
    (local $row i32) (local $pair i32) (local $x0 i32) (local $x1 i32) (local $x2 i32) (local $x3 i32)
    (local $at i32) (local $to i32) (local $v v128) (local $wa v128) (local $wb v128)
    (local $a0 v128) (local $a1 v128) (local $a2 v128) (local $a3 v128)
    (local $b0 v128) (local $b1 v128) (local $b2 v128) (local $b3 v128)
    loop $group
      i32.const 0
      local.set $row
      local.get $x
      local.set $x0
      local.get $out
      local.set $to
      loop $four_rows
        local.get $x0
        local.get $stride
        i32.add
        local.tee $x1
        local.get $stride
        i32.add
        local.tee $x2
        local.get $stride
        i32.add
        local.set $x3
        local.get $w
        local.set $at
        i32.const 0
        i32x4.splat
        local.tee $a0
        local.tee $a1
        local.tee $a2
        local.tee $a3
        local.tee $b0
        local.tee $b1
        local.tee $b2
        local.set $b3
        local.get $pairs
        local.set $pair
        loop $next_pair
          local.get $at
          v128.load
          local.set $wa
          local.get $at
          v128.load offset=16
          local.set $wb
          local.get $x0
          v128.load32_splat
          local.tee $v
          local.get $wa
          i32x4.dot_i16x8_s
          local.get $a0
          i32x4.add
          local.set $a0
          local.get $v
          local.get $wb
          i32x4.dot_i16x8_s
          local.get $b0
          i32x4.add
          local.set $b0
          local.get $x1
          v128.load32_splat
          local.tee $v
          local.get $wa
          i32x4.dot_i16x8_s
          local.get $a1
          i32x4.add
          local.set $a1
          local.get $v
          local.get $wb
          i32x4.dot_i16x8_s
          local.get $b1
          i32x4.add
          local.set $b1
          local.get $x2
          v128.load32_splat
          local.tee $v
          local.get $wa
          i32x4.dot_i16x8_s
          local.get $a2
          i32x4.add
          local.set $a2
          local.get $v
          local.get $wb
          i32x4.dot_i16x8_s
          local.get $b2
          i32x4.add
          local.set $b2
          local.get $x3
          v128.load32_splat
          local.tee $v
          local.get $wa
          i32x4.dot_i16x8_s
          local.get $a3
          i32x4.add
          local.set $a3
          local.get $v
          local.get $wb
          i32x4.dot_i16x8_s
          local.get $b3
          i32x4.add
          local.set $b3
          local.get $x0
          i32.const 4
          i32.add
          local.set $x0
          local.get $x1
          i32.const 4
          i32.add
          local.set $x1
          local.get $x2
          i32.const 4
          i32.add
          local.set $x2
          local.get $x3
          i32.const 4
          i32.add
          local.set $x3
          local.get $at
          i32.const 32
          i32.add
          local.set $at
          local.get $pair
          i32.const 1
          i32.sub
          local.tee $pair
          br_if $next_pair
        end
        local.get $to
        local.get $a0
        local.get $b0
        local.get $split
        call $store
        local.get $to
        local.get $width
        i32.add
        local.tee $to
        local.get $a1
        local.get $b1
        local.get $split
        call $store
        local.get $to
        local.get $width
        i32.add
        local.tee $to
        local.get $a2
        local.get $b2
        local.get $split
        call $store
        local.get $to
        local.get $width
        i32.add
        local.tee $to
        local.get $a3
        local.get $b3
        local.get $split
        call $store
        local.get $to
        local.get $width
        i32.add
        local.set $to
        local.get $row
        i32.const 4
        i32.add
        local.tee $row
        local.get $stride
        i32.mul
        local.get $x
        i32.add
        local.set $x0
        local.get $row
        local.get $rows
        i32.lt_u
        br_if $four_rows
      end
      local.get $at
      local.set $w
      local.get $out
      i32.const 32
      i32.const 64
      local.get $split
      select
      i32.add
      local.set $out
      local.get $groups
      i32.const 1
      i32.sub
      local.tee $groups
      br_if $group
    end))
