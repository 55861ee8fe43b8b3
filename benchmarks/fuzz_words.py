"""The words that the formats are made of, for damage that makes a file say something else."""

from __future__ import annotations


def _words(text: str) -> list[bytes]:
    """Words between spaces, with the escapes of Python's strings."""
    return [word.encode().decode("unicode_escape").encode("latin-1") for word in text.split()]


_NUMBERS = _words(r"""
0 -0 1 -1 2 3 1.5 1e5 1e308 -1e308 1e400 1e-320 nan NaN inf -Infinity 0x10 1_000 +5 .5 5. 1e 99999999999
2147483647 2147483648 9223372036854775808 1e19 360 -45.5 300 2.7 0.1 64 \xef\xbc\x91 \xc2\xa0 None ? .
""")
_STAR = _words(r"""
data_ data_optics data_particles data_images loop_ save_ save_x stop_ global_ # ; ' \x22 \xef\xbb\xbf \xff
\x00 1@a.mrcs 000002@b/c.mrcs 0@a.mrcs @a.mrcs 1@ -1@a.mrcs 99999999999@a.mrcs '1@a b.mrcs' 1@@ 1.0@a.mrcs
[0,0,0] [0,1] [] _rlnImageName _rlnAngleRot _rlnAngleTilt _rlnAnglePsi _rlnOriginX _rlnOriginY
_rlnOriginXAngst _rlnOriginYAngst _rlnDefocusU _rlnDefocusV _rlnDefocusAngle _rlnPhaseShift _rlnCtfBfactor
_rlnCtfScalefactor _rlnOpticsGroup _rlnOpticsGroupName _rlnVoltage _rlnSphericalAberration
_rlnAmplitudeContrast _rlnImagePixelSize _rlnImageSize _rlnDetectorPixelSize _rlnMagnification
_rlnRandomSubset _rlnMicrographName _rlnGroupName _rlnGroupNumber _gem3dContrast _rlnBeamTiltX _rlnMagMat00
_rlnMagMat01 _rlnCtfDataAreCtfPremultiplied _rlnOddZernike _rlnEvenZernike _rlnOther \n;\n \x0d\n \n \x20 '
\x22 \n\nloop_\n \ndata_particles\n '\x20' ''
""")
STAR = _NUMBERS + _STAR
CS = _words(r"""
'uid' 'blob/path' 'blob/idx' 'blob/shape' 'blob/psize_A' 'blob/sign' 'ctf/exp_group_id' 'ctf/accel_kv'
'ctf/cs_mm' 'ctf/amp_contrast' 'ctf/df1_A' 'ctf/df2_A' 'ctf/df_angle_rad' 'ctf/phase_shift_rad' 'ctf/scale'
'ctf/bfactor' 'ctf/tilt_A' 'ctf/anisomag' 'alignments3D/pose' 'alignments3D/shift' 'alignments3D/split'
'alignments3D/psize_A' 'alignments2D/pose' 'alignments3D_multi/pose' 'alignments3D_multi/shift'
'alignments3D_multi/class_posterior' 'alignments_class_0/pose' 'alignments_class_1/pose'
'alignments_class_0/shift' 'alignments_class_0/class_posterior' 'location/micrograph_uid'
'location/micrograph_path' '<f4' '<f8' '>f4' '<f2' '<u4' '<u8' '|u1' '<i4' '>i8' '|S9' '|S0' '|S999999999'
'<U9' '<U0' '|V8' '|b1' '<c8' '|O' '<f3' '<M8[s]' '<f16' '\x5cn' '\x5cx41' 0 1 2 3 5 (2,) (3,) (4,) (0,) ()
(1,1) 999999999 99999999999999999 True False descr , ) ( [ ] { } : ' \x22 L \x93NUMPY\x01\x00
\x93NUMPY\x02\x00 \x93NUMPY\x03\x00 \x95CSDAT \x00 \xff\xff\xff\xff \x00\x00\x80\x7f \x00\x00\xc0\x7f
\x00\x00\x80? > \n
""")
PICKLE = _words(r"""
( ) 0 1 2 5 a b c d e g h i j l o p q r s t u B C F G I J K L M N P Q R S T U V X ] { } . \x80 \x81 \x82
\x83 \x84 \x85 \x86 \x87 \x88 \x89 \x8a \x8b \x8c \x8d \x8e \x8f \x90 \x91 \x92 \x93 \x94 \x95 \x96 \x97
\x98 cnumpy\nndarray\n cnumpy\ndtype\n c_codecs\nencode\n cnumpy.core.multiarray\n_reconstruct\n
cnumpy._core.multiarray\nscalar\n cnumpy._core.numeric\n_frombuffer\n cos\nsystem\n cbuiltins\nexec\n
cposix\nsystem\n(S'true'\ntR c__main__\n__file__\n cnumpy\nload\n X\x02\x00\x00\x00f8 X\x02\x00\x00\x00O8
\x8c\x02i4 \x8c\x03<f8 U\x01< \x8c\x01C \x8c\x01F \x8c\x01K \x8c\x06latin1 \x80\x02 \x80\x05
\x95\x10\x00\x00\x00\x00\x00\x00\x00 B\xff\xff\xff\x7f \x8e\xff\xff\xff\xff\xff\xff\xff\x7f
\x8b\xff\xff\xff\x7f M\xff\xff J\xff\xff\xff\xff \x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01 I01\n
I99999999999999999999\n L5L\n Fnan\n S'a\x5c\n G\x7f\xf0\x00\x00\x00\x00\x00\x00 q\x00 h\x00
r\xff\xff\xff\xff j\xff\xff\xff\xff p9999999999\n (dp0\n \x85R \x86R tR tb ]q\x00(
""")
MRC = _words(r"""
MAP\x20 MAP\x00 DD\x00\x00 DA\x00\x00 \x11\x11\x00\x00 \x1f\x8b\x08\x00 BZh9 SERI FEI1 AGAR \x00\x00\x80\x7f
\x7f\x80\x00\x00 \x00\x00\xc0\x7f \x00\x00\x00\x00 \xff\xff\xff\xff \x00\x00\x80?
""")
