"""The operations and layers that `zoo hunt` tries, as tables: one call in a row, then its inputs.

    ops.cumprod(x, axis={0|1}) ; x=3,4            two cases for each kind of values in `zoo.hunt.cases.VALUES`
    layers.LSTM(3) | layer(x, mask=m) ; x=2,5,4 m=bool:2,5

"x=3,4" is an array of floats of this shape, "i=int5:3" of integers below 5, "p=positive:3" one of the kinds
in `zoo.hunt.cases.KINDS`, "[0.,1.]" the array itself. "{a|b}" is one row with a and one with b.
"""

from __future__ import annotations

ELEMENTWISE = """
ops.{abs|sign|square|negative|floor|ceil|trunc|round|exp|exp2|expm1|sin|cos|tan|sinh|cosh|tanh}(x) ; x=3,4
ops.{arctan|arcsinh|cbrt|erf|erfc|sinc|i0|deg2rad|rad2deg|signbit|isfinite|isinf|isnan}(x) ; x=3,4
ops.{isneginf|isposinf|isreal|logical_not|nan_to_num|real|imag|conj|angle|fabs|reciprocal}(x) ; x=3,4
ops.{sqrt|rsqrt|log|log2|log10|log1p|arcsin|arccos|arctanh|arccosh|erfinv}(x) ; x=3,4
ops.{sqrt|rsqrt|log|log2|log10|log1p|arcsin|arccos|arctanh|erfinv}(x) ; x=unit:3,4
ops.{arccosh|erfinv|arcsin|arccos|arctanh|sqrt|log|log1p}(x) ; x=[-1.,0.,1.,2.]
ops.{sinc|sqrt|tan|cbrt|erf|i0|sign|floor|round|trunc|ceil|abs}(x) ; x=[-2.5,-1.5,-0.5,-0.,0.,0.5,1.5,2.5]
ops.{exp|expm1|sinh|cosh|tanh|log1p|exp2|sigmoid|softplus|log_sigmoid|silu}({x|-x}) ; x=[1.,30.,700.,800.,1e308]
ops.{square|sqrt|exp|log|sin|abs|sign|negative|tanh|sigmoid|floor|round|isnan|reciprocal|erf}(x) ; x=int9:5
ops.{abs|sign|negative|square|sum|mean|max|cumsum|prod|argmax|any|std|exp}(x) ; x=bool:2,3
ops.round(x, decimals={-1|1|2}) ; x=3,4
ops.round(x, decimals={-1|1|2}) ; x=[0.05,0.15,0.25,2.675,25.,35.]
ops.clip(x, {-1|0|-0.5}, {1|0.5}) ; x=3,4
ops.clip(x, 1.0, -1.0) ; x=3,4
ops.clip(x, y, z) ; x=3,4 y=3,4 z=3,4
ops.nan_to_num(x, nan=7.0, posinf=8.0, neginf=-9.0) ; x=3,4
ops.cast(x, '{int32|uint8|int8|bool|float32|float16|bfloat16}') ; x=3,4
ops.cast(x, '{int32|uint8|int8|bool}') ; x=[-1.5,-0.5,0.5,1.5,200.5,300.,3e9,-3e9]
ops.saturate_cast(x, '{int32|uint8|int8}') ; x=[-1.5,-0.5,0.5,1.5,200.5,300.,3e9,-3e9,nan,inf]
ops.saturate_cast(x, '{uint8|int8|int16}') ; x=int900:5
ops.view(x, dtype='{int64|int32|uint8}') ; x=2,4
ops.nextafter(x, y) ; x=3 y=3
ops.stop_gradient(x) * x ; x=3,4
"""

BINARY = """
ops.{add|subtract|multiply|divide|true_divide|power|maximum|minimum|fmax|fmin|hypot}(x, y) ; x=3,4 y=3,4
ops.{logaddexp|logaddexp2|arctan2|floor_divide|mod|fmod|divide_no_nan|heaviside}(x, y) ; x=3,4 y=3,4
ops.{equal|not_equal|greater|greater_equal|less|less_equal|isclose|logical_and|logical_or}(x, y) ; x=3,4 y=3,4
ops.{logical_xor|allclose|isin|correlate}(x, y) ; x=6 y=6
ops.psnr(x, y, 1.0) ; x=6 y=6
ops.{add|multiply|maximum|hypot|logaddexp|arctan2|power|mod}(x, y) ; x=2,1,4 y=3,1
ops.{add|divide|power|mod|fmod|floor_divide|hypot|maximum|arctan2}(x, y) ; x=float: y=float:
ops.{mod|fmod|floor_divide|divide|true_divide|power}(x, y) ; x=[-7,-6,6,7,0] y=[3,-3,-3,3,2]
ops.{mod|fmod|floor_divide|divide|divide_no_nan}(x, y) ; x=[-7.,7.,0.,inf,1.,-0.] y=[3.,-3.,0.,2.,inf,1.]
ops.{mod|floor_divide|divide|fmod}(x, y) ; x=[1,0,-1] y=[0,0,0]
ops.power(x, y) ; x=[0.,0.,-1.,-2.,-8.,2.,nan,1.,inf] y=[0.,-1.,0.5,3.,0.3333,inf,0.,nan,0.]
ops.power(x, {2|0|-1|0.5|3.0}) ; x=3,4
ops.power({2|0}, x) ; x=3,4
ops.{gcd|lcm}(x, y) ; x=[12,0,-8,7,0] y=[18,5,12,-7,0]
ops.ldexp(x, i) ; x=3 i=int5:3
ops.ldexp(x, i) ; x=[1.,1.,0.,inf] i=[2000,-2000,5,-3]
ops.{bitwise_and|bitwise_or|bitwise_xor|left_shift|right_shift}(x, y) ; x=[5,-5,0,7] y=[3,2,1,31]
ops.{left_shift|right_shift|bitwise_left_shift}(x, y) ; x=[1,-1,8] y=[40,33,-1]
ops.{bitwise_not|bitwise_invert}(x) ; x=[5,-5,0]
ops.{logaddexp|logaddexp2|hypot|maximum|minimum|arctan2|fmax|fmin}(x, x) ; x=3,4
ops.{logaddexp|logaddexp2}(x, y) ; x=[-inf,inf,inf,0.,1e308] y=[-inf,inf,-inf,-inf,1e308]
ops.{hypot|arctan2}(x, y) ; x=[0.,-0.,inf,nan,3.,1e200] y=[0.,-0.,nan,inf,4.,1e200]
ops.where(b, x, y) ; b=bool:3,4 x=3,4 y=3,4
ops.where(x > 0, ops.sqrt(x), x) ; x=3,4
ops.where(b) ; b=bool:3,4
ops.select([x > 1, x > 0], [x, 2 * x], {0|-1.5}) ; x=3,4
ops.polar(p, x) ; p=positive:3 x=3
ops.isclose(x, y, rtol={0|1e-5}, atol={0|1e-8}, equal_nan={True|False}) ; x=[1.,nan,inf,0.,1.] y=[1.000001,nan,inf,-0.,1.00001]
ops.isin(x, y, invert=True) ; x=[1,2,3] y=[2]
ops.{matmul|dot|inner|outer|vdot|kron|cross}(x, y) ; x=3,3 y=3,3
ops.{matmul|dot|inner|outer|vdot|kron|cross}(x, y) ; x=3 y=3
ops.{matmul|dot}(x, y) ; x=2,3,4 y=4
ops.{matmul|dot}(x, y) ; x=2,3,4 y=4,5
ops.tensordot(x, y, axes=1) ; x=2,3,4 y=4,5
ops.matmul(x, y) ; x=2,1,3,4 y=5,4,2
ops.{matmul|dot}(x, y) ; x=int5:2,3 y=int5:3,2
ops.matmul(x, y) ; x=3,0 y=0,4
ops.tensordot(x, y, axes={0|[[0],[1]]}) ; x=3,4 y=4,3
ops.tensordot(x, y) ; x=2,3,4 y=3,4,5
ops.{inner|vdot}(x, y) ; x=2,4 y=2,4
ops.cross(x, y) ; x=4,2 y=4,2
ops.cross(x, y, axis=0) ; x=3,4 y=3,4
ops.correlate(x, y, mode='{valid|same|full}') ; x=6 y={3|4|8}
ops.einsum('{ij,jk->ik|ij,ij->|ij,kj->ik|ij,jk}', x, y) ; x=3,3 y=3,3
ops.einsum('{ii->i|ii|ij->ji|ii->|ij->j|i...->...}', x) ; x=3,3
ops.einsum('bij,bjk->bik', x, y) ; x=2,3,4 y=2,4,5
ops.append(x, y{|, axis=0|, axis=1}) ; x=3,3 y=3,3
ops.cdist(x, y) ; x=3,4 y=5,4
ops.cdist(x, x) ; x=3,4
"""

REDUCTIONS = """
ops.{sum|mean|max|min|amax|amin|prod|std|var|median|logsumexp|ptp|any|all|count_nonzero|norm}(x) ; x=3,4
ops.{sum|mean|max|min|amax|amin|prod|std|var|median|logsumexp|ptp|any|all|count_nonzero|norm}(x, axis={0|-1}) ; x=3,4
ops.{sum|mean|max|min|prod|std|var|median|logsumexp|ptp|all|norm}(x, axis=(0, 1), keepdims={True|False}) ; x=3,4
ops.{sum|max|std|var|prod|logsumexp|norm|median|mean}(x, axis={(0, 2)|-2}, keepdims={True|False}) ; x=2,3,4
ops.{sum|max|std|var|prod|logsumexp|norm|median|mean|argmax|cumsum|sort}(x) ; x=1
ops.{sum|max|std|var|prod|logsumexp|norm|median|mean|argmax|cumsum}(x) ; x=float:
ops.{std|var|mean|max|sum|norm|median|logsumexp}(x, axis=1) ; x=3,1
ops.{std|var|mean|max|sum|norm|prod|logsumexp|argmax|min|all|any|median}(x, axis={0|1}) ; x=3,0
ops.{sum|mean|max|prod|std|var|median|argmax|cumsum|cumprod|norm|all|count_nonzero|ptp}(x{|, axis=1}) ; x=int9:3,4
ops.{sum|mean|prod|max|std|var|norm}(x) ; x=[100000,100000,100000]
ops.{max|min}(x, axis=1, initial={0.0|5.0}) ; x=3,4
ops.average(x, axis={None|0|1}) ; x=3,4
ops.average(x, axis={None|1}, weights=y) ; x=3,4 y=3,4
ops.average(x, axis=1, weights=y) ; x=3,4 y=[0.,0.,0.,0.]
ops.{cumsum|cumprod|nancumsum|nancumprod}(x{|, axis=0|, axis=1}) ; x=3,4
ops.cumprod(x) ; x=[2.,0.,3.,0.,4.]
ops.{cumsum|cumprod}(x, axis=0, dtype='{int32|float32}') ; x=3,4
ops.{nansum|nanmean|nanmax|nanmin|nanprod|nanstd|nanvar|nanmedian|nanargmax|nanargmin}(x{|, axis=0|, axis=1}) ; x=3,4
ops.{nansum|nanmean|nanmax|nanmin|nanstd|nanvar|nanmedian|nanargmax|nanargmin}(x, axis=1) ; x=[[1.,nan,2.],[nan,nan,nan]]
ops.{quantile|nanquantile}(x, {0.5|[0.1,0.9]|0|1.0}, axis={None|1}, method='{linear|lower|higher|nearest|midpoint}') ; x=3,5
ops.{percentile|nanpercentile}(x, {50|[10,90]}, axis={0|1}, keepdims=True) ; x=3,5
ops.{median|nanmedian}(x, axis={0|1}) ; x=[[1.,nan,2.],[4.,3.,5.]]
ops.norm(x, ord={1|2|'fro'|'nuc'|np.inf|-np.inf|-1|-2}) ; x=3,4
ops.norm(x, ord={0|1|2|3|0.5|-1|np.inf|-np.inf}, axis={0|1}) ; x=3,4
ops.norm(x, ord={None|'fro'|1|np.inf}, axis=(0, 2)) ; x=2,3,4
ops.{norm|sum|mean|std|var|logsumexp|prod|cumsum|square}(x) ; x=thousands:8
ops.{norm|mean|var|std}(x, axis=-1) ; x=thousands:2,300
ops.normalize(x, axis={0|-1}, order={1|2|3}) ; x=3,4
ops.moments(x, axes={[0]|[0, 1]|[1]}, keepdims={True|False}) ; x=3,4
ops.moments(x, axes=[0]) ; x=thousands:8
ops.corrcoef(x) ; x=3,4
ops.trapezoid(x{|, dx=0.5|, axis=0}) ; x=3,4
ops.trapezoid(x, x=y) ; x=4 y=sorted:4
ops.diff(x, n={0|1|2|5}, axis={0|-1}) ; x=3,4
ops.{trace|det|slogdet|logdet|inv}(x) ; x=3,3
ops.trace(x, offset={1|-1|5}) ; x=3,4
ops.segment_{sum|max|min|prod}(x, i, num_segments={3|5}) ; x=4,3 i=[0,0,2,2]
ops.segment_{sum|max|min|prod}(x, i) ; x=4 i=[0,0,2,2]
ops.segment_{sum|max|min|prod}(x, i, num_segments=3) ; x=4 i=[0,-1,2,7]
ops.segment_{sum|max|min|prod}(x, i, num_segments=3) ; x=int9:4 i=[0,0,2,2]
ops.bincount(i{|, minlength=7|, minlength=2}) ; i=[1,1,4,0]
ops.bincount(i, weights=x) ; i=[1,1,4,0] x=4
ops.bincount(i{|, minlength=7}) ; i=[[1,1],[4,0]]
ops.bincount(i) ; i=[1,-1,2]
ops.histogram(x, bins={3|5}{|, range=(-1, 1)|, range=(0, 0.5)}) ; x=8
ops.histogram(x, bins=4) ; x=[0.,1.,2.,3.,4.,4.]
"""

SORTING = """
ops.{sort|argsort|argmax|argmin}(x{|, axis=0|, axis=None}) ; x=3,4
ops.{argmax|argmin}(x, axis={0|1}, keepdims=True) ; x=3,4
ops.{sort|argsort|argmax|argmin|unique}(x) ; x=[3.,1.,nan,1.,-inf,nan,-0.,0.]
ops.{argsort|argmax|argmin}(x) ; x=[1,1,0,1,0]
ops.top_k(x, {1|2|4}) ; x=3,4
ops.top_k(x, {2|3}) ; x=[2.,2.,2.,1.,2.]
ops.top_k(x, 3) ; x=[1.,nan,2.,nan,inf]
ops.top_k(x, 5) ; x=3,4
ops.top_k(x, 3, sorted=False) ; x=5
ops.argpartition(x, {1|2}) ; x=[3.,1.,2.,1.]
ops.in_top_k(i, x, {1|2}) ; i=int4:3 x=3,4
ops.in_top_k(i, x, 2) ; i=[7,-1,0] x=3,4
ops.searchsorted(s, x, side='{left|right}') ; s=[0.,0.,1.,2.] x=5
ops.searchsorted(s, x, side='{left|right}') ; s=[0.,1.,1.,2.] x=[1.,nan,inf,-inf]
ops.digitize(x, y) ; x=3,4 y=[-1.,0.,1.]
ops.digitize(x, y) ; x=[-2.,-1.,0.,1.,2.,nan] y=[-1.,0.,1.]
ops.unique(i{|, return_index=True|, return_inverse=True|, return_counts=True}) ; i=[3,1,3,0,1]
ops.unique(i, size={2|5}{|, fill_value=9}) ; i=[3,1,3,0,1]
ops.unique(i, axis=0) ; i=[[1,2],[1,2],[0,2]]
ops.nonzero(x) ; x=3,4
ops.{flip|fliplr|flipud|rot90}(x) ; x=3,4
"""

INDEXING = """
ops.take(x, i, axis={0|1|-1|None}) ; x=3,4 i=[0,2,-1]
ops.take(x, i, axis={0|1}) ; x=3,4 i=[5,-7]
ops.take(x, i, axis=1) ; x=2,3,4 i=[[0,1],[2,0]]
ops.take(x, {0|-1}, axis=0) ; x=3,4
ops.take_along_axis(x, i, axis=1) ; x=3,4 i=[[0,1],[3,-1],[2,2]]
ops.take_along_axis(x, i, axis=1) ; x=3,4 i=[[0,9],[3,-8],[2,2]]
ops.take_along_axis(x, i, axis=None) ; x=3,4 i=[0,11,-1]
ops.get_item(x, {0|-1|(slice(None), 1)|slice(None, None, 2)|(Ellipsis, None)|slice(5, 9)}) ; x=3,4
ops.one_hot(i, 4) ; i=[0,3,1]
ops.one_hot(i, 4{|, axis=0}) ; i=[0,4,-1,9]
ops.one_hot(i, 3) ; i=[[0,1],[2,7]]
ops.multi_hot(i, 4) ; i=[[0,3],[1,1]]
ops.multi_hot(i, 4) ; i=[[0,5],[-1,1]]
ops.scatter(i, x, (4, 3)) ; i=[[0],[2],[2]] x=3,3
ops.scatter(i, x, (4,)) ; i=[[0],[2],[9]] x=3
ops.scatter_update(x, i, y{|, reduction='add'|, reduction='max'|, reduction='mul'|, reduction='min'}) ; x=4 i=[[0],[2],[2]] y=3
ops.scatter_update(x, i, y) ; x=4 i=[[0],[-1],[7]] y=3
ops.slice(x, {[0,1]|[1,0]}, [2, 2]) ; x=3,4
ops.slice(x, [2, 3], [2, 2]) ; x=3,4
ops.slice_update(x, [{0|1}, 1], y) ; x=3,4 y=2,2
ops.slice_update(x, [2, 3], y) ; x=3,4 y=2,2
ops.unravel_index(i, (3, 4)) ; i=[0,5,11]
ops.unravel_index(i, (3, 4)) ; i=[-1,12]
ops.nonzero(i) ; i=[0,1,0,2]
ops.switch(i, [lambda x: x, lambda x: 2 * x], x) ; i=({0|1|5|-1}) x=3
ops.cond(b, lambda: x, lambda: 2 * x) ; b=({True|False}) x=3
ops.while_loop(lambda z: ops.sum(z) < 10, lambda z: z + 1, x, maximum_iterations=5) ; x=3
ops.fori_loop(0, {3|0}, lambda i, z: z * 2, x) ; x=3
ops.scan(lambda c, z: (c + z, c * z), y, x{|, reverse=True}) ; x=4,3 y=3
ops.associative_scan(lambda a, b: a {+|*} b, x{|, reverse=True|, axis=1}) ; x=4,3
ops.map(lambda z: ops.sum(z), x) ; x=4,3
ops.vectorized_map(lambda z: z * ops.max(z), x) ; x=4,3
"""

SHAPES = """
ops.pad(x, {1|((1, 2), (0, 3))|((2, 2), (2, 2))|((0, 0), (0, 0))}, mode='{constant|reflect|symmetric}') ; x=3,4
ops.pad(x, ((0, 0), (1, 1), (2, 1), (0, 0)), mode='{constant|reflect|symmetric}') ; x=2,3,4,2
ops.pad(x, ((0, 0), (1, 1), (0, 0)), mode='{constant|reflect|symmetric}') ; x=2,3,4
ops.pad(x, ((3, 3),), mode='{reflect|symmetric}') ; x=4
ops.pad(x, ((4, 4),), mode='{reflect|symmetric}') ; x=4
ops.pad(x, ((1, 1),), mode='{reflect|symmetric}') ; x=1
ops.pad(x, ((1, 1),), constant_values={2|2.5|-1}) ; x=int9:3
ops.pad(x, ((1, 1),), mode='{reflect|symmetric}') ; x=int9:3
ops.reshape(x, {(4, 3)|(-1,)|(2, -1)|(3, 2, 2)}) ; x=3,4
ops.{ravel|transpose|squeeze|copy|fliplr|tril|triu|diag|diagonal|diagflat|shape|size|ndim}(x) ; x=3,4
ops.{tril|triu|diag|diagflat}(x, k={1|-1|5}) ; x=3,4
ops.{tril|triu}(x, k={1|-1|5}) ; x=2,3,3
ops.diagonal(x, offset={1|-1}, axis1={0|1}, axis2=2) ; x=3,4,2
ops.{diag|diagflat}(x{|, k=1}) ; x=3
ops.{squeeze|expand_dims}(x, axis={0|-1}) ; x=1,3,1
ops.squeeze(x) ; x=1,3,1
ops.swapaxes(x, {0|-1}, 1) ; x=2,3,4
ops.moveaxis(x, {0, -1|[0, 1], [-1, 0]}) ; x=2,3,4
ops.transpose(x, (2, 0, 1)) ; x=2,3,4
ops.roll(x, {1|-2|7}{|, axis=0|, axis=1}) ; x=3,4
ops.roll(x, (1, 2), axis=(0, 1)) ; x=3,4
ops.rot90(x, k={2|3|-1}) ; x=3,4
ops.rot90(x, axes=(1, 2)) ; x=2,3,4
ops.flip(x, axis={0|(0, 1)|-1}) ; x=3,4
ops.repeat(x, {2|0}{|, axis=0|, axis=1}) ; x=3,4
ops.repeat(x, [1, 0, 2], axis=0) ; x=3,4
ops.tile(x, {2|(2, 1)|(2, 1, 2)|0}) ; x=3,4
ops.{concatenate|stack}([x, y], axis={0|1|-1}) ; x=3,4 y=3,4
ops.{hstack|vstack|dstack}([x, y]) ; x=3,4 y=3,4
ops.{hstack|vstack|dstack}([x, y]) ; x=3 y=3
ops.concatenate([x, i], axis=0) ; x=3 i=int5:3
ops.split(x, {2|[1, 3]|[0, 5]|4}, axis=1) ; x=3,4
ops.array_split(x, {2|3|5}{|, axis=1}) ; x=3,4
ops.{hsplit|vsplit}(x, {2|[1]}) ; x=4,4
ops.unstack(x{|, axis=1}) ; x=3,4
ops.broadcast_to(x, {(3, 4)|(2, 3, 4)}) ; x=3,1
ops.meshgrid(x, y, indexing='{xy|ij}') ; x=3 y=4
ops.vander(x{|, N=2|, increasing=True|, N=0}) ; x=4
ops.rearrange(x, '{b h w -> b (h w)|b h w -> h b w}') ; x=2,3,4
ops.space_to_depth(x, 2{|, data_format='channels_first'}) ; x=2,4,4,4
ops.depth_to_space(x, 2{|, data_format='channels_first'}) ; x=2,4,4,4
ops.extract_sequences(x, {3|4}, {1|2|5}) ; x=2,8
ops.unfold(x, {2|(2, 3)}{|, stride=2|, padding=1|, dilation=2}) ; x=2,3,5,5
ops.fold(x, (4, 4), 2, stride={1) ; x=2,12,9|2) ; x=2,12,4}
ops.{zeros_like|ones_like}(x) ; x=3,4
ops.full_like(x, {2|2.5}) ; x=3,4
ops.full_like(x, {2|2.5}) ; x=int9:3
ops.view_as_real(ops.view_as_complex(x)) ; x=3,2
"""

CREATION = """
ops.arange({5|1, 7, 2|5, 1, -2|0.0, 1.0, 0.3|3, 3|0, 1, 0.1}) ;
ops.linspace({0|1.0}, {1|5}, num={1|5|0}{|, endpoint=False|, retstep=True}) ;
ops.linspace(x, y, num=4{|, axis=1}) ; x=3 y=3
ops.{logspace|geomspace}({1|2.0}, {3|5}, num={1|4}{|, endpoint=False}) ;
ops.logspace(0, 2, num=3, base={2|0.5}) ;
ops.{bartlett|blackman|hamming|hanning}({0|1|2|5}) ;
ops.kaiser({0|1|5}, {0.0|14.0}) ;
ops.eye({3|0}{|, 4|, k=1}) ;
ops.tri({3|0}{|, 4|, k=-1}) ;
ops.identity({3|0}) ;
ops.full((2, 2), {1|1.5|True}) ;
ops.convert_to_tensor([{1|1.5}, 2]) ;
ops.array([{1|1.5}, 2]) ;
"""

LINEAR_ALGEBRA = """
ops.{cholesky|inv|det|slogdet|logdet|cholesky_inverse}(x) ; x=definite:3,3
ops.{cholesky|inv|det|slogdet|logdet|pinv|matrix_rank|lu_factor|qr}(x) ; x=2,3,3
ops.cholesky(x, upper=True) ; x=definite:3,3
ops.cholesky(x) ; x=[[1.,2.],[2.,1.]]
ops.inv(x) ; x=[[1.,2.],[2.,4.]]
ops.{det|slogdet|pinv|matrix_rank|lu_factor}(x) ; x=[[1.,2.],[2.,4.]]
ops.eigh(x)[0] ; x=definite:3,3
ops.eigh(x)[0] ; x=[[2.,1.],[0.,3.]]
ops.eigh(x)[0] ; x=[[1.,0.],[0.,1.]]
ops.svd(x, compute_uv=False) ; x=3,4
ops.svd(x)[1] ; x=3,4
ops.qr(x, mode='{reduced|complete}') ; x={3,4|4,3}
ops.{pinv|matrix_rank}(x) ; x=3,4
ops.solve(x, y) ; x=definite:3,3 y={3|3,2}
ops.solve_triangular(x, y, lower={True|False}) ; x=definite:3,3 y=3,2
ops.lstsq(x, y) ; x=4,3 y={4|4,2}
ops.lstsq(x, y) ; x=3,4 y=3
ops.{fft|ifft2|fft2}((x, y)) ; x=3,4 y=3,4
ops.rfft(x{|, fft_length=6|, fft_length=16}) ; x=2,8
ops.irfft((x, y){|, fft_length=6|, fft_length=9}) ; x=2,5 y=2,5
ops.stft(x, 8, {4|3}, 8, window={None|'hann'|'hamming'}, center={True|False}) ; x=2,20
ops.stft(x, 5, 2, {8|16}) ; x=2,20
ops.istft(ops.stft(x, 8, 4, 8), 8, 4, 8{|, length=18}) ; x=2,20
"""

ACTIVATIONS = """
ops.{relu|relu6|sigmoid|tanh|silu|softplus|softsign|log_sigmoid|hard_sigmoid|hard_silu|hard_tanh|elu|selu}(x) ; x=3,4
ops.{celu|gelu|leaky_relu|hard_shrink|soft_shrink|tanh_shrink|squareplus|sparse_plus|sparse_sigmoid|sparsemax}(x) ; x=3,4
ops.{relu|relu6|hard_sigmoid|hard_silu|hard_tanh|elu|selu|celu|leaky_relu|softsign|gelu|silu}(x) ; x=[-6.,-3.,-1.,-0.5,-0.,0.,0.5,1.,3.,6.]
ops.{hard_shrink|soft_shrink|tanh_shrink|sparse_plus|sparse_sigmoid}(x) ; x=[-1.,-0.5,0.,0.5,1.]
ops.{softplus|log_sigmoid|sigmoid|gelu|silu|elu|selu|tanh|squareplus|sparse_plus|celu}(x) ; x=[-1e3,-800.,-40.,40.,800.,1e3]
ops.gelu(x, approximate={True|False}) ; x=3,4
ops.{elu|celu}(x, alpha={0.5|2.0|-1.0}) ; x=3,4
ops.leaky_relu(x, negative_slope={0.0|1.5}) ; x=3,4
ops.{hard_shrink|soft_shrink}(x, threshold={0.0|1.0}) ; x=3,4
ops.{softmax|log_softmax|sparsemax|glu|logsumexp}(x, axis={0|-1|1}) ; x=4,4
ops.{softmax|log_softmax}(x, axis={None|(0, 1)}) ; x=3,4
ops.{softmax|log_softmax|logsumexp}(x) ; x=[[-inf,-inf],[inf,0.],[1e308,-1e308],[0.,-inf]]
ops.{softmax|log_softmax|sparsemax|sigmoid|gelu}(x) ; x=int9:3,4
keras.activations.{mish|exponential|softmax|hard_sigmoid|log_softmax|glu|squareplus}(x) ; x=4,4
ops.threshold(x, {0.5|0.0}, 2.0) ; x=3,4
keras.activations.relu(x, negative_slope={0|0.1}, max_value={None|1.0}, threshold={0.0|0.5}) ; x=3,4
layers.{ReLU|LeakyReLU|ELU|Softmax|PReLU}() ; x=3,4
layers.Softmax(axis={0|1|(1, 2)}) ; x=2,3,4
layers.Softmax() | layer(x, mask=b) ; x=3,4 b=bool:3,4
layers.ReLU(max_value={1.0|None}, negative_slope={0.0|0.3}, threshold={0.0|0.5}) ; x=3,4
layers.PReLU(shared_axes=[1]) ; x=2,3,4
layers.Activation('{relu|gelu|swish|mish|selu|softmax|hard_sigmoid|tanh|linear|elu|glu}') ; x=3,4
"""

CONVOLUTIONS = """
ops.conv(x, k, strides={1|2}, padding='{same|valid}') ; x=2,7,3 k={3|2},3,4
ops.conv(x, k, strides={1|2|(2, 1)}, padding='{same|valid}') ; x=2,6,5,2 k={3,3|2,3},2,4
ops.conv(x, k, padding='{same|valid}', dilation_rate={2|(2, 1)}) ; x=2,7,6,2 k=2,3,2,4
ops.conv(x, k, strides=2, padding='same') ; x=1,4,5,4,2 k=2,3,2,2,3
ops.conv(x, k, strides={1|2}, padding='{same|valid}', data_format='channels_first') ; x=2,2,6,5 k=3,2,2,4
ops.conv(x, k, padding='{same|valid}') ; x=2,6,5,4 k=3,3,2,4
ops.conv(x, k, padding='{same|valid}') ; x=2,2,2,3 k=3,3,3,2
ops.conv(x, k, strides=3, padding='{same|valid}') ; x=2,5,3 k=1,3,2
ops.depthwise_conv(x, k, strides={1|2}, padding='{same|valid}'{|, dilation_rate=2}) ; x=2,7,7,3 k=3,3,3,2
ops.depthwise_conv(x, k, padding='{same|valid}'{|, strides=2}) ; x=2,7,3 k=3,3,2
ops.depthwise_conv(x, k, strides={1|2}, padding='{same|valid}', data_format='channels_first') ; x=2,3,7,7 k=3,3,3,2
ops.separable_conv(x, k, p, strides={1|2}, padding='{same|valid}') ; x=2,6,6,3 k=3,3,3,2 p=1,1,6,4
ops.conv_transpose(x, k, strides={1|2|3}, padding='{same|valid}') ; x=2,5,3 k={2|3|4},4,3
ops.conv_transpose(x, k, strides={1|2}, padding='{same|valid}'{|, data_format='channels_last'}) ; x=2,4,3,2 k={3,3|2,2},4,2
ops.conv_transpose(x, k, strides={2|3}, padding='{same|valid}', output_padding={0|1}) ; x=2,4,4,2 k=3,3,4,2
ops.conv_transpose(x, k, padding='{same|valid}', dilation_rate=2) ; x=2,4,4,2 k=3,3,4,2
ops.conv_transpose(x, k, strides=2, padding='{same|valid}', data_format='channels_first') ; x=2,2,4,4 k=3,3,4,2
layers.Conv1D(4, 3, padding='{same|valid|causal}', strides={1|2}) ; x=2,7,3
layers.Conv1D(4, 3, padding='{causal|same}', dilation_rate={2|3}) ; x=2,9,3
layers.Conv1D({4|6}, 2, groups=2{|, activation='relu'|, use_bias=False}) ; x=2,7,4
layers.Conv1D(4, 3, padding='{same|valid}', data_format='channels_first') ; x=2,3,7
layers.Conv2D(4, {3|(2, 3)|1}, padding='{same|valid}', strides={1|2|(1, 2)}) ; x=2,6,7,3
layers.Conv2D(4, 3, padding='{same|valid}', dilation_rate=2) ; x=2,7,7,3
layers.Conv2D(4, 3, padding='{same|valid}', groups=2) ; x=2,6,6,4
layers.Conv2D(4, 3, padding='{same|valid}', strides={1|2}, data_format='channels_first') ; x=2,3,6,7
layers.Conv3D(2, {2|3}, padding='{same|valid}', strides={1|2}) ; x=1,4,5,4,2
layers.Conv3D(2, 2, padding='same', data_format='channels_first') ; x=1,2,4,5,4
layers.DepthwiseConv1D(3, depth_multiplier={1|2}, padding='{same|valid}'{|, strides=2}) ; x=2,7,3
layers.DepthwiseConv2D(3, depth_multiplier={1|2}, padding='{same|valid}', strides={1|2}) ; x=2,7,6,3
layers.DepthwiseConv2D(3, padding='{same|valid}', strides={1|2}, data_format='channels_first') ; x=2,3,7,6
layers.DepthwiseConv2D(2, padding='{same|valid}', dilation_rate=2) ; x=2,7,6,3
layers.SeparableConv1D(4, 3, padding='{same|valid}'{|, strides=2|, dilation_rate=2}) ; x=2,8,3
layers.SeparableConv2D(4, 3, padding='{same|valid}'{|, strides=2|, dilation_rate=2|, depth_multiplier=2}) ; x=2,7,6,3
layers.SeparableConv2D(4, 3, padding='{same|valid}', data_format='channels_first') ; x=2,3,7,6
layers.Conv1DTranspose(4, {2|3|4|5}, strides={1|2|3}, padding='{same|valid}') ; x=2,5,3
layers.Conv1DTranspose(4, 3, strides=2, padding='{same|valid}', output_padding={0|1}) ; x=2,5,3
layers.Conv1DTranspose(4, 3, padding='{same|valid}', dilation_rate=2) ; x=2,5,3
layers.Conv1DTranspose(4, 3, strides=2, padding='{same|valid}', data_format='channels_first') ; x=2,3,5
layers.Conv2DTranspose(3, {2|3|(3, 2)}, strides={1|2}, padding='{same|valid}') ; x=2,4,3,2
layers.Conv2DTranspose(3, 3, strides={2|3}, padding='{same|valid}', output_padding=1) ; x=2,4,3,2
layers.Conv2DTranspose(3, 3, strides=2, padding='{same|valid}', data_format='channels_first') ; x=2,2,4,3
layers.Conv3DTranspose(2, {2|3}, strides={1|2}, padding='{same|valid}') ; x=1,3,3,2,2
layers.{Flatten|GlobalAveragePooling2D|GlobalMaxPooling2D}(data_format='channels_first') ; x=2,3,4,5
layers.Flatten(data_format='channels_first') | layers.Flatten(data_format='channels_first')(layer(x)) ; x=2,3,4
"""

POOLING = """
ops.{max_pool|average_pool}(x, {2|3}, strides={1|2|None}, padding='{same|valid}') ; x=2,7,3
ops.{max_pool|average_pool}(x, {2|(2, 3)|3}, strides={1|2|None}, padding='{same|valid}') ; x=2,5,6,2
ops.{max_pool|average_pool}(x, 2, strides={1|2}, padding='{same|valid}', data_format='channels_first') ; x=2,2,5,6
ops.{max_pool|average_pool}(x, 2, strides={1|2}, padding='{same|valid}') ; x=1,3,4,5,2
ops.{max_pool|average_pool}(x, 3, strides=2, padding='{same|valid}') ; x=2,2,2,2
ops.{max_pool|average_pool}(x, 2, strides=3, padding='same') ; x=2,7,3
ops.adaptive_{max|average}_pool(x, {2|3|5}) ; x=2,7,3
ops.adaptive_{max|average}_pool(x, {2|(3, 2)|1}) ; x=2,5,6,2
ops.adaptive_{max|average}_pool(x, (7, 9)) ; x=2,5,6,2
layers.{MaxPooling1D|AveragePooling1D}({2|3}, strides={1|2|3}, padding='{same|valid}') ; x=2,7,3
layers.{MaxPooling2D|AveragePooling2D}({2|3|(2, 3)}, strides={1|2|None}, padding='{same|valid}') ; x=2,5,6,2
layers.{MaxPooling2D|AveragePooling2D}(3, strides=2, padding='{same|valid}', data_format='channels_first') ; x=2,2,5,6
layers.{MaxPooling3D|AveragePooling3D}(2, strides={1|2}, padding='{same|valid}') ; x=1,3,4,5,2
layers.{MaxPooling1D|AveragePooling1D}(2, padding='{same|valid}', data_format='channels_first') ; x=2,3,7
layers.{GlobalMaxPooling1D|GlobalAveragePooling1D}(keepdims={True|False}) ; x=2,5,3
layers.{GlobalMaxPooling2D|GlobalAveragePooling2D}(keepdims={True|False}) ; x=2,4,5,3
layers.{GlobalMaxPooling3D|GlobalAveragePooling3D}() ; x=2,3,4,2,2
layers.GlobalAveragePooling1D() | layer(x, mask=b) ; x=2,5,3 b=bool:2,5
layers.GlobalAveragePooling1D() | layer(x, mask=b) ; x=2,3,2 b=[[False,False,False],[True,False,True]]
layers.Adaptive{Max|Average}Pooling1D({2|4}) ; x=2,7,3
layers.Adaptive{Max|Average}Pooling2D({2|(3, 4)}) ; x=2,5,7,2
layers.{UpSampling1D|ZeroPadding1D|Cropping1D}({1|2|3}) ; x=2,7,3
layers.UpSampling2D({2|(2, 3)}, interpolation='{nearest|bilinear|bicubic|lanczos3}') ; x=2,4,3,2
layers.UpSampling2D(2, data_format='channels_first') ; x=2,2,4,3
layers.UpSampling3D(2) ; x=1,2,3,2,2
layers.ZeroPadding2D({1|(1, 2)|((1, 0), (2, 3))}{|, data_format='channels_first'}) ; x=2,3,4,2
layers.Cropping2D({1|((1, 0), (0, 2))}) ; x=2,4,5,2
layers.ZeroPadding3D({1|((1, 0), (0, 2), (1, 1))}) ; x=1,2,3,2,2
layers.Cropping3D(1) ; x=1,4,3,5,2
"""

NORMALIZATION = """
ops.layer_normalization(x{|, axis=1|, axis=0|, epsilon=0.1}) ; x=3,4
ops.layer_normalization(x, g, b, axis={1|-1|[1, 2]}) ; x=2,3,3 g=3 b=3
ops.rms_normalization(x{|, axis=0|, axis=1|, epsilon=0.1}) ; x=3,4
ops.batch_normalization(x, m, v, axis={1|-1}) ; x=2,3,3 m=3 v=positive:3
ops.batch_normalization(x, m, v, axis=-1, offset=o, scale=s, epsilon={1e-3|0.0}) ; x=2,3 m=3 v=positive:3 o=3 s=3
ops.normalize(x, axis={0|-1}{|, order=1|, epsilon=0.5}) ; x=3,4
layers.LayerNormalization(axis={1|2|-1|[1, 2]}{|, epsilon=0.1|, center=False, scale=False}) ; x=2,3,4
layers.LayerNormalization(axis={1|[1, 2, 3]}) ; x=2,3,4,2
layers.LayerNormalization(axis=1) ; x=2,3
layers.RMSNormalization(axis={1|-1|[1, 2]}) ; x=2,3,4
layers.GroupNormalization({1|2|-1}, axis={-1|1}) ; x=2,4,4,4
layers.GroupNormalization(2, epsilon={0.1|1e-3}) ; x=2,3,4
layers.BatchNormalization(axis={-1|1}) | layer(x, training={True|False}) ; x=4,3,2
layers.BatchNormalization(axis={-1|1}) | layer(x, training={True|False}) ; x=2,3,4,2
layers.BatchNormalization() | layer(x, training=True, mask=b) ; x=3,4,2 b=bool:3,4
layers.BatchNormalization(center=False, scale=False) | layer(x, training=True) ; x=4,2
layers.BatchNormalization() | layer(x, training=True) ; x=1,2
layers.UnitNormalization(axis={1|-1|[1, 2]}) ; x=2,3,4
layers.SpectralNormalization(layers.Dense(3)) | layer(x, training=True) ; x=4,3
layers.Normalization(mean=0.5, variance={2.0|0.0}{|, invert=True}) ; x=3,4
layers.Rescaling({2.0|1 / 255}, offset={0.0|-1.0}) ; x=3,4
"""

RECURRENT = """
layers.{LSTM|GRU|SimpleRNN}(3{|, return_sequences=True|, go_backwards=True|, return_state=True|, unroll=True}) ; x=2,5,4
layers.{LSTM|GRU|SimpleRNN}(3, return_sequences={True|False}{|, zero_output_for_mask=True}) | layer(x, mask=b) ; x=2,4,3 b=[[True,True,False,False],[True,True,True,True]]
layers.{LSTM|GRU|SimpleRNN}(3, return_sequences=True) | layer(x, mask=b) ; x=2,4,3 b=[[False,False,True,True],[True,False,True,False]]
layers.{LSTM|GRU|SimpleRNN}(3) | layer(x, mask=b) ; x=2,3,3 b=[[False,False,False],[True,True,True]]
layers.{LSTM|GRU}(3, activation='{relu|tanh|linear}', recurrent_activation='{hard_sigmoid|sigmoid}') ; x=2,5,4
layers.{LSTM|GRU|SimpleRNN}(3, use_bias=False) ; x=2,1,4
layers.GRU(3, reset_after={True|False}, return_sequences=True) ; x=2,5,4
layers.GRU(3, reset_after=False) | layer(x, mask=b) ; x=2,4,3 b=[[True,True,False,False],[True,True,True,True]]
layers.LSTM(3) | layer(x, initial_state=[h, c]) ; x=2,5,4 h=2,3 c=2,3
layers.Bidirectional(layers.{LSTM|GRU}(3, return_sequences={True|False}){|, merge_mode='sum'|, merge_mode='ave'|, merge_mode='mul'}) ; x=2,5,4
layers.Bidirectional(layers.{LSTM|GRU}(3, return_sequences=True)) | layer(x, mask=b) ; x=2,4,3 b=[[True,True,False,False],[True,True,True,True]]
layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]) ; x=2,5,4
layers.ConvLSTM1D(2, 3, padding='{same|valid}', return_sequences={True|False}) ; x=2,3,5,2
layers.ConvLSTM2D(2, 2, padding='{same|valid}'{|, strides=2}) ; x=1,3,5,4,2
layers.TimeDistributed(layers.Dense(2)) ; x=2,3,4
layers.TimeDistributed(layers.Conv1D(2, 2)) ; x=2,3,4,2
layers.Masking({0.0|1.0}) ; x=2,3,4
"""

ATTENTION = """
ops.dot_product_attention(q, k, v{|, is_causal=True|, scale=0.5|, attn_logits_soft_cap=2.0}) ; q=2,3,2,4 k=2,5,2,4 v=2,5,2,4
ops.dot_product_attention(q, k, v, mask=b) ; q=1,3,1,4 k=1,4,1,4 v=1,4,1,4 b=bool:1,1,3,4
ops.dot_product_attention(q, k, v, mask=b) ; q=1,2,1,4 k=1,2,1,4 v=1,2,1,4 b=[[[[False,False],[True,False]]]]
ops.dot_product_attention(q, k, v, bias=b{|, is_causal=True}) ; q=1,3,2,4 k=1,3,2,4 v=1,3,2,4 b=1,2,3,3
ops.dot_product_attention(q, k, v) ; q=1,3,4,4 k=1,3,2,4 v=1,3,2,4
layers.{Attention|AdditiveAttention}({|use_scale=True|use_scale=False}) ; q=2,3,4 v=2,5,4
layers.Attention(score_mode='{dot|concat}') | layer([q, v], use_causal_mask={True|False}) ; q=2,3,4 v=2,3,4
layers.{Attention|AdditiveAttention}() | layer([q, v], mask=[None, b]) ; q=2,3,4 v=2,3,4 b=bool:2,3
layers.{Attention|AdditiveAttention}() | layer([q, v], mask=[None, b]) ; q=1,2,4 v=1,2,4 b=[[False,False]]
layers.MultiHeadAttention(2, 3{|, value_dim=2|, use_bias=False|, output_shape=5|, attention_axes=(1,)}) | layer(x, x) ; x=2,4,3
layers.MultiHeadAttention(2, 3) | layer(x, x, use_causal_mask=True) ; x=2,4,3
layers.MultiHeadAttention(2, 3) | layer(x, x, attention_mask=b) ; x=2,4,3 b=bool:2,4,4
layers.MultiHeadAttention(2, 3) | layer(x, x, attention_mask=b) ; x=1,2,3 b=[[[False,False],[True,True]]]
layers.MultiHeadAttention(2, 3) | layer(x, x, return_attention_scores=True) ; x=2,4,3
layers.MultiHeadAttention(2, 3) | layer(x, x) ; x=2,2,3,3
layers.GroupQueryAttention(3, 4, 2{|, use_bias=False}) | layer(x, x) ; x=2,4,3
layers.GroupQueryAttention(3, 4, 2) | layer(x, x, use_causal_mask=True) ; x=2,4,3
layers.GroupQueryAttention(3, 4, 2) | layer(x, x, attention_mask=b) ; x=2,4,3 b=bool:2,4,4
"""

CORE_LAYERS = """
layers.Dense(3{|, activation='relu'|, use_bias=False|, activation='softmax'}) ; x=2,4
layers.Dense(3) ; x=2,2,4
layers.EinsumDense('ab,bc->ac', 3{|, bias_axes='c'}) ; x=2,4
layers.EinsumDense('abc,cd->abd', (None, 3), bias_axes='d') ; x=2,3,4
layers.Embedding(5, 3) ; i=int5:2,4
layers.Embedding(5, 3) ; i=[[0,5],[-1,9]]
layers.ReversibleEmbedding(5, 3, tie_weights={True|False}) | layer(layer(i), reverse=True) ; i=int5:2,4
layers.{Add|Subtract|Multiply|Average|Maximum|Minimum|Concatenate}() ; x=3,4 y=3,4
layers.{Add|Multiply|Maximum}() ; x=3,1 y=3,4
layers.Dot(axes={1|-1}, normalize={True|False}) ; x=3,4 y=3,4
layers.Dot(axes={(2, 1)|(1, 2)}) ; x=2,3,3 y=2,3,3
layers.Concatenate(axis={1|-1}) ; x=2,3,4 y=2,3,4
layers.{Reshape((2, 6))|Reshape((-1,))|Permute((2, 1))|Flatten()|Identity()} ; x=2,3,4
layers.Flatten() ; x=3
layers.RepeatVector(3) ; x=2,4
layers.Lambda(lambda x: 2 * x) ; x=2,4
layers.ActivityRegularization(0.1, 0.1) ; x=2,4
layers.{Dropout|GaussianNoise|GaussianDropout|AlphaDropout}(0.5) | layer(x, training=False) ; x=3,4
layers.Dropout({0.0|1.0}) | layer(x, training=True) ; x=3,4
layers.GaussianNoise(0.0) | layer(x, training=True) ; x=3,4
layers.CategoryEncoding(4, output_mode='{one_hot|multi_hot}') ; i=[0,3,1]
layers.CategoryEncoding(4, output_mode='{multi_hot|count}') ; i=[[0,3],[1,1]]
layers.CategoryEncoding(4, output_mode='count') | layer(i, count_weights=x) ; i=[[0,3],[1,1]] x=2,2
layers.CategoryEncoding(4, output_mode='multi_hot') ; i=[[0,4],[-1,1]]
layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0], output_mode='{int|one_hot|multi_hot|count}') ; x=3,4
layers.Discretization(bin_boundaries=[0.0, 1.0]) ; x=[-1.,0.,0.5,1.,nan,inf]
layers.HashedCrossing(5) ; i=int5:3 j=int5:3
"""

IMAGES = """
ops.image.resize(x, {(3, 4)|(9, 7)|(5, 6)|(10, 12)}, interpolation='{nearest|bilinear|bicubic|lanczos3|lanczos5}', antialias={True|False}) ; x=1,5,6,2
ops.image.resize(x, (4, 4), {crop_to_aspect_ratio=True|pad_to_aspect_ratio=True}) ; x=1,6,3,2
ops.image.resize(x, (4, 4), data_format='channels_first') ; x=1,2,6,3
ops.image.resize(x, (3, 3), interpolation='{nearest|bilinear}') ; x=int256:1,5,4,3
ops.image.map_coordinates(x, c, order={0|1}, fill_mode='{constant|nearest|wrap|mirror|reflect}') ; x=4,5 c=[[-0.5,0.,1.3,3.5,6.],[-1.,0.5,2.5,4.5,9.]]
ops.image.map_coordinates(x, c, order={0|1}, fill_mode='{constant|nearest|wrap|mirror|reflect}') ; x=4 c=[[-9.5,-4.,-0.5,0.5,1.5,3.,3.5,4.,8.,12.7]]
ops.image.map_coordinates(x, c, order=1, fill_value=2.0) ; x=4 c=[[-0.5,0.,3.5]]
ops.image.affine_transform(x, t, interpolation='{nearest|bilinear}', fill_mode='{constant|nearest|wrap|mirror|reflect}') ; x=1,5,5,2 t=[[0.9,0.2,-1.,-0.1,1.1,0.6,0.,0.]]
ops.image.perspective_transform(x, s, e, interpolation='{nearest|bilinear}') ; x=1,5,5,2 s=[[[0.,0.],[4.,0.],[0.,4.],[4.,4.]]] e=[[[1.,0.],[4.,1.],[0.,3.],[3.,4.]]]
ops.image.extract_patches(x, {2|(3, 2)}, strides={None|1|2}, padding='{same|valid}') ; x=1,5,6,2
ops.image.extract_patches(x, 2, strides=1, dilation_rate=2, padding='{same|valid}') ; x=1,5,6,2
ops.image.extract_patches(x, 2, data_format='channels_first') ; x=1,2,4,6
ops.image.extract_patches_3d(x, 2, padding='{same|valid}') ; x=1,4,5,4,2
ops.image.{crop_images(x, 1, 1, target_height=2, target_width=3)|pad_images(x, 1, 2, target_height=8, target_width=9)} ; x=1,5,6,2
ops.image.{rgb_to_grayscale|rgb_to_hsv|hsv_to_rgb|sobel_edges|gaussian_blur}(x) ; x=1,4,4,3
ops.image.{rgb_to_grayscale|rgb_to_hsv|hsv_to_rgb|sobel_edges}(x) ; x=positive:1,4,4,3
ops.image.{rgb_to_hsv|hsv_to_rgb}(x) ; x=[[[[0.,0.,0.],[1.,1.,1.],[1.,0.,0.],[0.5,0.5,0.2],[1.,0.5,0.5]]]]
ops.image.gaussian_blur(x, kernel_size={(3, 3)|(2, 4)|(5, 3)}, sigma=(0.5, 2.0)) ; x=1,6,6,2
ops.image.scale_and_translate(x, (1, 6, 7, 2), y, z, (1, 2), '{linear|cubic|lanczos3}', antialias={True|False}) ; x=1,4,5,2 y=[1.5,1.4] z=[0.3,-0.2]
ops.image.ssim(x, y, filter_size={3|5}) ; x=positive:1,8,8,3 y=positive:1,8,8,3
layers.Resizing(4, 5, interpolation='{nearest|bilinear|bicubic|lanczos3}'{|, crop_to_aspect_ratio=True|, pad_to_aspect_ratio=True}) ; x=1,6,7,2
layers.CenterCrop({3|4}, {3|9}) ; x=1,6,7,2
layers.Solarization(value_range=(0, 1)) | layer(x, training=True) ; x=positive:1,3,3,3
layers.{AutoContrast|Equalization}(value_range=(0, 1)) | layer(x, training=True) ; x=positive:1,4,4,3
layers.MelSpectrogram(fft_length=16, sequence_stride=8, sampling_rate=100, num_mel_bins=4) ; x=2,40
layers.STFTSpectrogram(mode='{log|magnitude|psd|real|imag|angle}', frame_length=8, frame_step=4, fft_length=16) ; x=2,40,1
"""

LOSSES = """
keras.losses.{mean_squared_error|mean_absolute_error|mean_absolute_percentage_error|huber|log_cosh|poisson}(t, x) ; t=3,4 x=3,4
keras.losses.{mean_squared_logarithmic_error|hinge|squared_hinge|categorical_hinge|cosine_similarity}(t, x) ; t=3,4 x=3,4
keras.losses.{kl_divergence|dice|tversky|binary_focal_crossentropy|categorical_focal_crossentropy|poisson}(t, x) ; t=probabilities:3,4 x=probabilities:3,4
keras.losses.{binary_crossentropy|categorical_crossentropy}(t, x, from_logits=True{|, label_smoothing=0.2}) ; t=probabilities:3,4 x=3,4
keras.losses.{binary_crossentropy|categorical_crossentropy|kl_divergence|categorical_focal_crossentropy}(t, x) ; t=[[0.,1.],[1.,0.]] x=[[0.,1.],[0.,1.]]
keras.losses.sparse_categorical_crossentropy(i, x, from_logits={True|False}{|, ignore_class=0|, ignore_class=-1}) ; i=int4:3 x=3,4
keras.losses.sparse_categorical_crossentropy(i, x, from_logits=True) ; i=[4,-1,0] x=3,4
keras.losses.categorical_generalized_cross_entropy(t, x, q=0.5) ; t=[[0.,1.],[1.,0.]] x=probabilities:2,2
keras.losses.circle(i, x) ; i=[0,0,1,1] x=4,3
keras.losses.ctc(i, x) ; i=[[1,2],[3,3]] x=2,5,4
ops.ctc_loss(i, x, l, m) ; i=[[1,2],[3,3]] x=2,5,4 l=[2,2] m=[5,5]
ops.ctc_loss(i, x, l, m) ; i=[[1,2],[3,3]] x=2,5,4 l=[2,1] m=[5,3]
ops.ctc_loss(i, x, l, m) ; i=[[1,2],[3,3]] x=2,5,4 l=[2,2] m=[1,2]
ops.ctc_decode(x, l, strategy='greedy'{|, merge_repeated=False}) ; x=2,5,4 l=[5,3]
ops.ctc_decode(x, l, strategy='beam_search', beam_width=4, top_paths=2) ; x=2,5,4 l=[5,3]
ops.binary_crossentropy(t, x, from_logits={True|False}) ; t=probabilities:3,4 x=3,4
ops.categorical_crossentropy(t, x, from_logits={True|False}, axis={-1|0}) ; t=probabilities:3,3 x=3,3
ops.sparse_categorical_crossentropy(i, x, from_logits={True|False}) ; i=int4:3 x=3,4
ops.binary_crossentropy(t, x) ; t=[0.,1.,0.,1.] x=[0.,1.,1.,0.]
ops.categorical_crossentropy(t, x{|, from_logits=True}) ; t=[[1.,0.],[0.,0.]] x=[[0.,0.],[1.,0.]]
keras.metrics.{binary_accuracy|categorical_accuracy|top_k_categorical_accuracy}(t, x) ; t=3,6 x=3,6
keras.metrics.{sparse_categorical_accuracy|sparse_top_k_categorical_accuracy}(i, x) ; i=int6:3 x=3,6
keras.metrics.{pearson_correlation|concordance_correlation}(t, x) ; t=3,4 x=3,4
"""

CATALOGUE = {
    "elementwise": ELEMENTWISE,
    "binary": BINARY,
    "reductions": REDUCTIONS,
    "sorting": SORTING,
    "indexing": INDEXING,
    "shapes": SHAPES,
    "creation": CREATION,
    "linear algebra": LINEAR_ALGEBRA,
    "activations": ACTIVATIONS,
    "convolutions": CONVOLUTIONS,
    "pooling": POOLING,
    "normalization": NORMALIZATION,
    "recurrent": RECURRENT,
    "attention": ATTENTION,
    "core layers": CORE_LAYERS,
    "images": IMAGES,
    "losses": LOSSES,
}
