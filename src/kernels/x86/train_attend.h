namespace training {
inline void attend(const TrainAttendArgs<float>& a) {
  kRefTrainKernels.attend(a);
}
inline void attend_backward(const TrainAttendArgs<float>& a, const TrainAttendGrad<float>& g) {
  kRefTrainKernels.attend_backward(a, g);
}
inline int64_t attend_scratch_bytes(int64_t T, int64_t k, int64_t v) {
  return kRefTrainKernels.attend_scratch_bytes(T, k, v);
}
}  // namespace training
