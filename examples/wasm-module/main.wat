;; Answers each request with a UUID of version 7 (RFC 9562): the time in milliseconds, then random bits.
;; main.wasm is this, assembled; the platform takes it as it is.
(module
  (import "lambent_v1" "respond" (func $respond (param i32 i32 i32)))
  (import "lambent_v1" "write" (func $write (param i32 i32)))
  (import "lambent_v1" "random" (func $random (param i32 i32)))
  (import "lambent_v1" "time" (func $time (result i64)))

  (memory (export "memory") 1)
  (data (i32.const 0) "Content-Type\00text/plain; charset=utf-8\00Cache-Control\00no-store\00")
  (data (i32.const 96) "0123456789abcdef")
  ;; The 16 bytes of the UUID are at 128, its text is written from 160 on.

  (func (export "handle")
    (local $i i32) (local $at i32) (local $byte i32) (local $ms i64)
    (call $random (i32.const 128) (i32.const 16))
    (local.set $ms (i64.div_u (call $time) (i64.const 1000000)))
    (i32.store8 (i32.const 128) (i32.wrap_i64 (i64.shr_u (local.get $ms) (i64.const 40))))
    (i32.store8 (i32.const 129) (i32.wrap_i64 (i64.shr_u (local.get $ms) (i64.const 32))))
    (i32.store8 (i32.const 130) (i32.wrap_i64 (i64.shr_u (local.get $ms) (i64.const 24))))
    (i32.store8 (i32.const 131) (i32.wrap_i64 (i64.shr_u (local.get $ms) (i64.const 16))))
    (i32.store8 (i32.const 132) (i32.wrap_i64 (i64.shr_u (local.get $ms) (i64.const 8))))
    (i32.store8 (i32.const 133) (i32.wrap_i64 (local.get $ms)))
    (i32.store8 (i32.const 134) (i32.or (i32.const 0x70) (i32.and (i32.const 0x0f) (i32.load8_u (i32.const 134))))) ;; the version
    (i32.store8 (i32.const 136) (i32.or (i32.const 0x80) (i32.and (i32.const 0x3f) (i32.load8_u (i32.const 136))))) ;; the variant
    (local.set $at (i32.const 160))
    (loop $each
      ;; Hyphens stand before the bytes 4, 6, 8 and 10.
      (if (i32.and (i32.shr_u (i32.const 0x550) (local.get $i)) (i32.const 1))
        (then
          (i32.store8 (local.get $at) (i32.const 45))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))))
      (local.set $byte (i32.load8_u (i32.add (i32.const 128) (local.get $i))))
      (i32.store8 (local.get $at) (i32.load8_u (i32.add (i32.const 96) (i32.shr_u (local.get $byte) (i32.const 4)))))
      (i32.store8 (i32.add (local.get $at) (i32.const 1)) (i32.load8_u (i32.add (i32.const 96) (i32.and (local.get $byte) (i32.const 15)))))
      (local.set $at (i32.add (local.get $at) (i32.const 2)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $each (i32.lt_u (local.get $i) (i32.const 16))))
    (i32.store8 (local.get $at) (i32.const 10))
    (call $respond (i32.const 200) (i32.const 0) (i32.const 62))
    (call $write (i32.const 160) (i32.const 37))))
